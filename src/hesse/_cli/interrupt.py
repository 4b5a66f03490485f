"""Ctrl-C during long questions: the first asks them to stop with what they know, the second stops at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import typer

from hesse._solvers.run import Progress


class Interrupt:
    """Whether the user has asked to stop; called as the ``callback`` of questions."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, progress: Progress) -> bool:
        return self.asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        typer.echo("hesse: stopping after this product; Ctrl-C again stops at once.", err=True)


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Within it Ctrl-C only sets ``asked``, the first time."""
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt._ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
