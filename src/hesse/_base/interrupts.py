"""Ctrl-C at any line: what was changed for a while is put back all the same."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from hesse._base.memory import is_out_of_memory


def is_unrelated(error: BaseException) -> bool:
    """Whether an error says nothing about what ran: a lack of memory, or what a handler of signals raises."""
    return is_out_of_memory(error) or is_of_handler(error)


def is_of_handler(error: BaseException) -> bool:
    """Whether a handler of signals has raised it, as an alarm's raises TimeoutError."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    # The code of a function, or of an object that is called.
    codes = [getattr(entry, "__code__", getattr(type(entry).__call__, "__code__", None)) for entry in handlers]
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


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
    """Within it signals wait for its end, and then do what they would have done: Ctrl-C, alarms.

    PyTorch ends the process where an exception comes while a mode of its dispatcher is entered or left.
    """

    def __enter__(self) -> Held:
        self._asked: dict[int, Any] = {}
        self._before: dict[int, Any] = {}
        # Handlers belong to the main thread, and only Python's own can be called.
        if threading.current_thread() is threading.main_thread():
            try:
                for number in signal.valid_signals():
                    handler = signal.getsignal(number)
                    if callable(handler):
                        self._before[number] = handler
                        signal.signal(number, self._ask)
            except BaseException:  # of a handler that was still there
                self._put_back()
                raise
        return self

    def _ask(self, number: int, frame: Any) -> None:
        self._asked[number] = frame

    def _put_back(self) -> None:
        try:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        except BaseException:  # of a handler that is there again
            self._put_back()
            raise

    def _deliver(self) -> None:
        """Let the signals that have come meanwhile do their work."""
        if self._asked:
            number, frame = self._asked.popitem()
            try:
                self._before[number](number, frame)
            finally:
                self._deliver()

    def __exit__(self, *exception: object) -> None:
        try:
            self._put_back()
        finally:
            self._deliver()
