"""What linearizes the batches of an operator over data, and with ``engine="auto"`` what may take its place."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hesse._base.clock import Clock
from hesse._base.errors import CaptureError, warn_caller
from hesse._base.memory import is_out_of_memory
from hesse._data.linearizers import Engines
from hesse._linearize.engines import Name, candidates
from hesse._linearize.ladder import Candidate, Ladder

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
        self._tape = Engines("tape")
        self.now = self._tape if self._is_auto else Engines(name, verify)
        # Bytes that were kept of the largest batch, at any point.
        self._largest = 0
        self._lock = threading.RLock()

    @property
    def reason(self) -> str:
        """Why this engine, with the figures."""
        if not self._is_auto:
            return "as asked for"
        later = self.now.refusal
        return f"no program can be had: {later}" if later else super().reason

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
        if not (self.is_open and count):
            return multiply()
        if count >= _MANY:
            self.expect(count)
            self._measure(point)
        candidate = self.affordable() if self.may_pay else None
        if candidate is not None and self._has_room(point):
            self._try(candidate, point, measured=True)
        return self._timed(point, count, multiply) if self.counted(count) else multiply()

    def decide(self, point: Point, engine: str | None) -> None:
        """Decide for ``engine``, or for what pays by what is expected now; from now on no clock does."""
        if self._is_auto and engine is not None:
            self._change_to(point, engine)
        elif self.is_open:
            self._measure(point)
            candidate = self.affordable()
            if candidate is not None and self._has_room(point):
                self._try(candidate, point, measured=True)
        self.settle()

    def _change_to(self, point: Point, engine: str) -> None:
        """Go on with that one, whatever was decided."""
        if point.engines.engine == engine:
            return
        candidate = next((one for one in self._candidates if one.way.engine == engine), None)
        if candidate is not None:
            self._try(candidate, point, measured=False)
        elif engine == "tape":
            point.use(self._tape)
            self.now = self._tape

    def _has_room(self, point: Point) -> bool:
        self._largest = max(self._largest, point.largest)
        return self.has_room_beside(self._largest, point.device)

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
            self._nodes = max(self._nodes, point.nodes)
            self._look_ahead()
        return product

    def _try(self, candidate: Candidate[Engines], point: Point, *, measured: bool) -> None:
        """Let the candidate take the place of the engine at a point, and keep it if it is ``measured`` faster."""
        with self._lock:
            ours, before = candidate.way, point.engines
            if measured and (candidate not in self._left or before is not self.now):
                # Another point has decided; this one stays with what it has.
                return
            if candidate in self._left:
                self._tried(candidate)
            now = self._trial(point) if measured else 0.0
            try:
                point.use(ours)
                # The programs are made, and compared with the tape.
                point.random_product()
                faster = not measured or self.gains(self._trial(point), now)
            except BaseException as error:
                point.use(before)
                if not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                    raise
                self._refused(error, before)
                return
            finally:
                self._look_ahead()
            if not faster:
                point.use(before)
                return
            # A batch of another layout, or the next point, may yet have no program.
            ours.fall_back()
            self.now = ours

    def _trial(self, point: Point) -> float:
        """Seconds of a product, the least of a few: both engines are given the same, what is kept as far as it is."""
        least = math.inf
        for _ in range(_TRIALS):
            clock = Clock()
            point.random_product()
            least = min(least, clock.lap(point.device))
        self.see(point.engines.engine, least)
        return least

    def _refused(self, error: BaseException, before: Engines) -> None:
        """What cannot be captured cannot be compiled, so nothing else is tried."""
        self.refusal = str(error.__cause__ or error).strip().split("\n", 1)[0].rstrip(".")
        self._left.clear()
        on = "tape" if before.engine == "tape" else f"{before.engine} graph"
        warn_caller(f'engine="auto" goes on with the {on}: {self.refusal}.')
