"""``engine="auto"``: the tape, until so many products are made or expected that a faster engine repays its price."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hesse._autograd.evaluation import untraced
from hesse._base.clock import Clock
from hesse._base.errors import CaptureError, warn_caller
from hesse._base.memory import is_out_of_memory
from hesse._linearize import tape
from hesse._linearize.compiled import Compiled, CompiledLinearization, generator_states, random_like
from hesse._linearize.ladder import Candidate, Ladder
from hesse._linearize.protocol import EngineName, Leaves, Linearization, Map, Selection

_TRIALS = 3
# So many vectors at once, or more, are worth measuring a product beforehand.
_MANY = 64


class Auto(Ladder[Compiled]):
    """Which engine makes the products of one function, at all of its points.

    The arguments are those of :class:`Ladder`; each candidate goes on with the tape where it cannot take a point.
    """

    def __init__(
        self, candidates: Sequence[Candidate[Compiled]], expected: int, memory: int | str | None = None
    ) -> None:
        super().__init__(candidates, expected, memory)
        # What makes the products of new points; the tape where it is None.
        self._best: Compiled | None = None
        self._lock = threading.RLock()

    @property
    def programs(self) -> list[Any]:
        """The programs made so far."""
        return [program for candidate in self._candidates for program in candidate.way.programs]

    def linearize(self, map: Map, point: Leaves, arguments: Any, *, name: str) -> Linearization:
        """The linearization of ``map``: by the best engine so far, which may yet give way to a better one."""
        states = generator_states(point) if self._left else {}
        if self._best is None:
            made: Linearization = tape.linearize(map, point, name=name)
        else:
            made = self._best.linearize(map, point, arguments, name=name)
        if not self._left:
            return made
        return Adaptive(
            self, made, len(point), lambda engine, beside: engine.beside(beside, states, map, point, arguments)
        )

    def timed(self, linearization: Linearization, count: int, multiply: Callable[[], list[Tensor]]) -> list[Tensor]:
        """``multiply()`` of ``count`` vectors, with a look at the clock."""
        clock = Clock()
        products = multiply()
        # The first of a process pays for what PyTorch loads at it.
        if self._calls > 1:
            self.see(linearization.engine, clock.lap(linearization.outputs[0].device) / count)
            if isinstance(linearization, tape.Tape) and not self._nodes:
                self._nodes = linearization.num_nodes()
            self._look_ahead()
        return products

    def measure(self, linearization: Linearization, multiply: Callable[[Linearization], list[Tensor]]) -> None:
        """Time a product beforehand, if none was."""
        if not self._seconds:
            for _ in range(2):
                self.counted(1)
                self.timed(linearization, 1, lambda: multiply(linearization))

    def attempt(
        self,
        candidate: Candidate[Compiled],
        now: Linearization,
        make: Make,
        multiply: Callable[[Linearization], list[Tensor]],
        *,
        measured: bool,
    ) -> Linearization:
        """The candidate's linearization if there is one, and if it is ``measured`` faster; otherwise ``now``."""
        with self._lock:
            if candidate not in self._left or now.engine != (self._best.engine if self._best else "tape"):
                # Another point has decided; this one stays with what it has.
                return now
            try:
                ours = self._made_beside(candidate, make, now)
                if ours is None:
                    # What cannot be captured cannot be compiled.
                    self._left.clear()
                    return now
                self._tried(candidate)
                if measured and not self._is_faster(ours, now, multiply):
                    ours.close()
                    return now
                self._best = candidate.way
                now.close()
                return ours
            finally:
                self._look_ahead()

    def _made_beside(
        self, candidate: Candidate[Compiled], make: Make, now: Linearization
    ) -> CompiledLinearization | None:
        try:
            ours: CompiledLinearization = untraced(make)(candidate.way, now)
        except Exception as error:
            if not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                raise
            self.refusal = str(error).strip().split("\n", 1)[0].rstrip(".")
            on = "tape" if now.engine == "tape" else f"{now.engine} graph"
            warn_caller(f'engine="auto" goes on with the {on}: {self.refusal}.')
            return None
        return ours

    def _is_faster(
        self, ours: Linearization, now: Linearization, multiply: Callable[[Linearization], list[Tensor]]
    ) -> bool:
        least: dict[str, float] = {}
        for _ in range(_TRIALS):
            for linearization in (now, ours):
                clock = Clock()
                multiply(linearization)
                seconds = clock.lap(ours.outputs[0].device)
                self.see(linearization.engine, seconds)
                least[linearization.engine] = min(seconds, least.get(linearization.engine, seconds))
        return self.gains(least[ours.engine], least[now.engine])


Make = Callable[[Compiled, Linearization], CompiledLinearization]
"""Makes an engine's linearization beside another one of the same point."""


class Adaptive(Linearization):
    """A linearization that gives way to that of a faster engine at the same point, once that pays."""

    create_graph = False

    def __init__(self, auto: Auto, now: Linearization, num_inputs: int, make: Make) -> None:
        self.outputs, self.aux = now.outputs, now.aux
        self._auto, self._now, self._num_inputs = auto, now, num_inputs
        self._make: Make | None = make

    @property
    def engine(self) -> EngineName:  # type: ignore[override]  # it changes, and nobody sets it
        """The engine that makes the products now."""
        return self._now.engine

    @property
    def batch_size(self) -> int | None:  # type: ignore[override]  # likewise
        """That of the engine."""
        return self._now.batch_size

    @property
    def batch_price(self) -> float:
        """That of the engine."""
        return self._now.batch_price

    @property
    def _may_change(self) -> bool:
        return self._make is not None and self._auto.is_open

    @property
    def _has_room(self) -> bool:
        return self._auto.has_room_beside(self._now.kept_bytes(), self.outputs[0].device)

    def begin(self, count: int) -> None:
        """So many vectors are about to come: now is the time to give way to another engine."""
        if self._may_change:
            if count >= _MANY:
                self._auto.expect(count)
                untraced(self._auto.measure)(self._now, self._random_product)
            candidate = self._auto.affordable() if self._auto.may_pay else None
            if candidate is not None and self._has_room:
                self._try(candidate, measured=True)

    def settle(self, engine: str | None) -> None:
        """Decide for ``engine``, or for what pays by what is expected now; from now on no clock does."""
        if self._may_change:
            self._auto.measure(self._now, self._random_product)
            candidate = self._auto.affordable() if engine is None else self._auto.named(engine)
            if candidate is not None and (engine or self._has_room):
                self._try(candidate, measured=engine is None)
        self._auto.settle()

    def _try(self, candidate: Candidate[Compiled], *, measured: bool) -> None:
        assert self._make is not None
        attempt = untraced(self._auto.attempt)
        self._now = attempt(candidate, self._now, self._make, self._random_product, measured=measured)

    def _random_product(self, linearization: Linearization) -> list[Tensor]:
        everything = Selection(tuple(range(len(self.outputs))), tuple(range(self._num_inputs)))
        return linearization.rmatvec([random_like(output) for output in self.outputs], everything)

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J."""

        def multiply() -> list[Tensor]:
            return self._now.rmatvec(cotangents, selection, batched=batched, last=last)

        return self._timed(multiply, cotangents, batched) if self._is_timed(cotangents, batched) else multiply()

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents."""

        def multiply() -> list[Tensor]:
            return self._now.matvec(tangents, selection, batched=batched, last=last)

        return self._timed(multiply, tangents, batched) if self._is_timed(tangents, batched) else multiply()

    def _is_timed(self, vectors: Leaves, batched: bool) -> bool:
        return self._may_change and self._auto.counted(len(vectors[0]) if batched else 1)

    def _timed(self, multiply: Callable[[], list[Tensor]], vectors: Leaves, batched: bool) -> list[Tensor]:
        count = len(vectors[0]) if batched else 1
        products: list[Tensor] = untraced(self._auto.timed)(self._now, count, multiply)
        return products

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes kept alive for products by the engine that makes them now."""
        return self._now.kept_bytes(beside)

    def close(self) -> None:
        """Free what is kept."""
        self._now.close()
        self._make = None
