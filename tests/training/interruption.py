"""Exceptions at chosen lines of Python code: those of hesse, of PyTorch and of the architectures."""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

import hesse

ROOTS = tuple(
    str(Path(file).parent) for file in (hesse.__file__, torch.__file__, f"{Path(__file__).parent}/architectures/x")
)


Result = TypeVar("Result")


class Interruption(Exception):
    """What is raised, where it is no KeyboardInterrupt."""


class Lines:
    """Runs something, and counts the lines it goes through."""

    def __init__(self) -> None:
        self.number = 0
        self.counts: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
        self._at: int | None = None
        self._error: BaseException | None = None
        self._known: dict[str, bool] = {}

    def count(self, run: Callable[[], Result]) -> Result:
        """Run it to its end; afterwards ``counts`` has, by file and line, when that line came."""
        return self._traced(run)

    def interrupt(self, run: Callable[[], object], at: int, error: type[BaseException]) -> bool:
        """Run it, and raise at the line of this count; whether that line came."""
        self._at, self._error = at, error("at a line of the test's choice")
        self._traced(run)
        return self.number >= at

    def choose(self, rng: random.Random, count: int) -> list[int]:
        """Counts of lines to be interrupted: each line of code is as probable as any other."""
        lines = sorted(self.counts)
        return [rng.choice(self.counts[rng.choice(lines)]) for _ in range(count)]

    def where(self, at: int) -> str:
        """The file and line of a count."""
        file, line = next(place for place, counts in self.counts.items() if at in counts)
        return f"{'/'.join(file.split('/')[-3:])}:{line}"

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
            known = self._known[file] = file.startswith(ROOTS)
        return self._line if known else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.number += 1
            if self._at is None:
                self.counts[frame.f_code.co_filename, frame.f_lineno].append(self.number)
            elif self.number == self._at and self._error is not None:
                raise self._error
        return self._line
