"""Exceptions at chosen lines of Python code: those of hesse, of PyTorch and of the architectures."""

from __future__ import annotations

import collections
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

import hesse

TORCH = str(Path(torch.__file__).parent)
ROOTS = (TORCH, str(Path(hesse.__file__).parent), str(Path(__file__).parent / "architectures"))

Place = tuple[str, int]
"""A file and the number of a line."""


Result = TypeVar("Result")


class Interruption(Exception):
    """What is raised, where it is no KeyboardInterrupt."""


class Lines:
    """Runs something, and counts how often each line comes, by file and number."""

    def __init__(self) -> None:
        self.counts: collections.Counter[Place] = collections.Counter()
        self._at: Place | None = None
        self._left = 0
        self._error: type[BaseException] = Interruption
        self._known: dict[str, bool] = {}

    def count(self, run: Callable[[], Result]) -> Result:
        """Run it to its end."""
        return self._traced(run)

    def interrupt(self, run: Callable[[], object], at: Place, occurrence: int, error: type[BaseException]) -> None:
        """Run it, and raise where a line comes for this time; a KeyboardInterrupt comes as Ctrl-C does."""
        self._at, self._left, self._error = at, occurrence, error
        self._traced(run)

    def choose(self, rng: random.Random, error: type[BaseException]) -> tuple[Place, int]:
        """A line, each as probable as any other, and when it is to be interrupted.

        PyTorch aborts the process where an error comes while modes of its dispatcher are entered or left. Ctrl-C waits
        for the end of a capture; other exceptions are raised at lines of hesse's and of the model's alone.
        """
        lines = [place for place in sorted(self.counts) if error is KeyboardInterrupt or not place[0].startswith(TORCH)]
        chosen = rng.choice(lines)
        return chosen, rng.randint(1, self.counts[chosen])

    def _traced(self, run: Callable[[], Result]) -> Result:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return run()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        known = self._known.get(file)
        if known is None:
            known = self._known[file] = file.startswith(ROOTS) if self._at is None else file == self._at[0]
        return self._line if known else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            if self._at is None:
                self.counts[place] += 1
            elif place == self._at:
                self._left -= 1
                if self._left == 0:
                    if self._error is KeyboardInterrupt:
                        signal.raise_signal(signal.SIGINT)
                    else:
                        raise self._error
        return self._line
