"""Ctrl-C at any line: what was changed for a while is put back all the same."""

from __future__ import annotations

from collections.abc import Callable


class Net:
    """``with Net(put_back), change:`` calls ``put_back`` once more, where an interrupt comes while ``change`` is left.

    Python calls ``__exit__`` on a line of its own: an interrupt there leaves the inner manager open. The outer one is
    left by that very interrupt. ``put_back`` does nothing where nothing is to be done.
    """

    def __init__(self, put_back: Callable[[], object]) -> None:
        self._put_back = put_back

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self._put_back()
