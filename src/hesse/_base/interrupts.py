"""Ctrl-C at any line: what was changed for a while is put back all the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


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


class Held:
    """Within it Ctrl-C waits for its end, or for ``deliver``, and then does what it would have done.

    PyTorch ends the process where an exception comes while a mode of its dispatcher is entered or left.
    """

    def __enter__(self) -> Held:
        self._asked: tuple[Any, ...] = ()
        self._before: Any = None
        # Handlers belong to the main thread, and only Python's own can be called.
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *asked: Any) -> None:
        self._asked = asked

    def deliver(self) -> None:
        """Let a Ctrl-C that has come meanwhile do its work."""
        asked, self._asked = self._asked, ()
        if asked:
            self._before(*asked)

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self.deliver()
