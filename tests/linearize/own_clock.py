"""A clock of the tests' own, by which decisions are made: no real time decides anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hesse._linearize import chunks
from hesse._linearize.compiled_linearization import CompiledLinearization
from hesse._linearize.tape import Tape
from hesse._operators import decision


class OwnClock:
    """Time passes in products alone: so many seconds in each by the tape, and in each by a program.

    Attributes:
        now: seconds so far.
        laps: how many times a product was measured.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, tape: float = 1.0, program: float = 0.5) -> None:
        self.tape, self.program = tape, program
        self.now, self.laps = 0.0, 0
        clock = self

        class Clock:
            def __init__(self) -> None:
                self._start = clock.now

            def lap(self, device: torch.device) -> float:
                clock.laps += 1
                return clock.now - self._start

        for module in (decision, chunks):
            monkeypatch.setattr(module, "Clock", Clock)
        for kind, engine in ((Tape, "tape"), (CompiledLinearization, "program")):
            for name in ("matvec", "rmatvec"):
                monkeypatch.setattr(kind, name, self._passing(getattr(kind, name), engine))

    def _passing(self, product: Callable[..., Any], engine: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self.now += getattr(self, engine)
            return product(*arguments, **options)

        return timed
