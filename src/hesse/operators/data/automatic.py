"""What linearizes the batches of an operator over data, and with ``engine="auto"`` what may take its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hesse.clock import Clock
from hesse.engines.choice import Name, candidates
from hesse.engines.ladder import Candidate, Ladder
from hesse.errors import CaptureError, warn_caller
from hesse.memory import is_out_of_memory
from hesse.operators.data.linearizers import Engines

_TRIALS = 2
# So many vectors at once, or more, are worth measuring a product beforehand.
_MANY = 64


class Point(Protocol):
    """A sum over data at a point, whose batches are linearized by engines that can be changed."""

    @property
    def engines(self) -> Engines:
        """Those that linearize its batches."""
        ...

    @property
    def nodes(self) -> int:
        """How many nodes the graphs have that the tape keeps, one batch of each layout."""
        ...

    @property
    def largest(self) -> int:
        """Bytes that are kept of the largest batch."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its vectors are."""
        ...

    def use(self, engines: Engines) -> None:
        """Let go of what is kept, and linearize by these from now on."""
        ...

    def random_product(self) -> Tensor:
        """A product with a random vector, in one pass over the data."""
        ...


class DataEngine(Ladder[Engines]):
    """The engines of one operator over data at all of its points: those it was given, or with "auto" the best so far.

    With "auto" it begins with the tape. Another one takes its place at a point where it is tried: what the tape keeps
    is let go, since both may not fit, and the data is gone over once more.
    """

    def __init__(
        self, name: Name, verify: bool = True, *, expected: int | None = None, memory: int | str | None = None
    ) -> None:
        if expected is not None and expected < 0:
            raise ValueError(f"expect should be a number of products but is {expected!r}.")
        self._is_auto = name == "auto"
        ways = candidates(lambda way: Engines(way, verify)) if self._is_auto else []
        super().__init__(ways, expected or 0, memory)
        self.now = Engines("tape" if self._is_auto else name, verify)

    @property
    def reason(self) -> str:
        """Why this engine, with the figures."""
        return super().reason if self._is_auto else "as asked for"

    @property
    def programs(self) -> int:
        """How many programs were made, at all points so far."""
        return sum(engines.programs for engines in self._made_by)

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling, at all points so far."""
        return sum(engines.seconds for engines in self._made_by)

    @property
    def _made_by(self) -> list[Engines]:
        return [candidate.way for candidate in self._candidates] or [self.now]

    def multiply(self, point: Point, count: int, multiply: Callable[[], Tensor]) -> Tensor:
        """``multiply()`` of ``count`` vectors at a point, whose engines may change before."""
        if not self.is_open:
            return multiply()
        if count >= _MANY:
            self.expect(count)
            self._measure(point)
        candidate = self.affordable() if self.may_pay else None
        if candidate is not None and self.has_room_beside(point.largest, point.device):
            self._try(candidate, point, measured=True)
        return self._timed(point, count, multiply) if self.counted(count) else multiply()

    def decide(self, point: Point, engine: str | None) -> None:
        """Decide for ``engine``, or for what pays by what is expected now; from now on no clock does."""
        if self.is_open:
            if engine is None:
                self._measure(point)
            candidate = self.affordable() if engine is None else self.named(engine)
            if candidate is not None and (engine or self.has_room_beside(point.largest, point.device)):
                self._try(candidate, point, measured=engine is None)
        self.settle()

    def _measure(self, point: Point) -> None:
        if not self._seconds:
            for _ in range(2):
                self.counted(1)
                self._timed(point, 1, point.random_product)

    def _timed(self, point: Point, count: int, multiply: Callable[[], Tensor]) -> Tensor:
        clock = Clock()
        product = multiply()
        # The first one evaluates what stays.
        if self._calls > 1:
            self.see(point.engines.engine, clock.lap(point.device) / count)
            self._nodes = point.nodes
            self._look_ahead()
        return product

    def _try(self, candidate: Candidate[Engines], point: Point, *, measured: bool) -> None:
        ours, before = candidate.way, point.engines
        self._tried(candidate)
        if measured:
            self._trial(point)
        point.use(ours)
        try:
            # The programs are made, and compared with the tape.
            point.random_product()
        except Exception as error:
            if not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                raise
            self._refused(error, point, before)
            return
        if measured:
            self._trial(point)
        if measured and not self.gains(ours.engine, before.engine):
            point.use(before)
        else:
            # A batch of another layout, or the next point, may yet have no program.
            ours.fall_back()
            self.now = ours
        self._look_ahead()

    def _trial(self, point: Point) -> None:
        """Look at the clock where both engines are given the same: products of what is kept, as far as it is."""
        for _ in range(_TRIALS):
            clock = Clock()
            point.random_product()
            self.see(point.engines.engine, clock.lap(point.device))

    def _refused(self, error: Exception, point: Point, before: Engines) -> None:
        """What cannot be captured cannot be compiled, so nothing else is tried."""
        self.refusal = str(error.__cause__ or error).strip().split("\n", 1)[0].rstrip(".")
        self._left.clear()
        on = "tape" if before.engine == "tape" else f"{before.engine} graph"
        warn_caller(f'engine="auto" goes on with the {on}: {self.refusal}.')
        point.use(before)
