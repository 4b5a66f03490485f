"""``engine="auto"``: the tape, until so many products are made or expected that a faster engine repays its price."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from hesse.clock import Clock
from hesse.engines import tape
from hesse.engines.compiled import Compiled, CompiledLinearization, generator_states, random_like
from hesse.engines.linearization import EngineName, Leaves, Linearization, Map, Selection
from hesse.errors import CaptureError, warn_caller
from hesse.functional.evaluation import untraced
from hesse.memory import budget, is_out_of_memory, readable

# Of the seconds that all products take on the tape as much may go into trying other engines.
SHARE = 0.1
# An engine that gains less is not worth the memory it takes.
_GAIN = 1.05
_TRIALS = 3
# So many vectors at once, or more, are worth measuring a product beforehand.
_MANY = 64
# What tracing and compiling load into a process was measured to be 180 to 400 MiB.
_LOADED = 512 * 2**20


class Candidate(NamedTuple):
    """An engine that may be tried, and what that is expected to cost in seconds: at any rate, and for each node."""

    compiled: Compiled
    fixed_price: float
    node_price: float


class Auto:
    """Which engine makes the products of one function, at all of its points.

    An engine is tried once a tenth of what all products take on the tape, those made so far or those expected if they
    are more, would pay for it; it is taken if it is right and was measured faster. So whatever comes, the products take
    about a tenth longer than on the tape alone at most.

    Args:
        candidates: what may be tried, the cheapest first; each goes on with the tape where it cannot take a point.
        expected: how many products will be asked for, at all points together; 0 where nobody knows.
        memory: bytes that a call may add; None for half of what is available then.
    """

    def __init__(self, candidates: Sequence[Candidate], expected: int, memory: int | None = None) -> None:
        self._candidates, self._left = candidates, list(candidates)
        self._expected, self._made, self._calls = expected, 0, 0
        # What makes the products of new points; the tape where it is None.
        self._best: Compiled | None = None
        self.refusal: str | None = None
        # Why nothing was tried, though it would have paid.
        self._cramped = ""
        # Seconds a vector by each engine, the least that was seen; what the tape keeps, which compiling grows with.
        self._seconds: dict[str, float] = {}
        self._nodes = 0
        # How many products pay for the next engine.
        self._enough = math.inf
        self._memory = memory
        self._lock = threading.RLock()

    @property
    def programs(self) -> list[Any]:
        """The programs made so far."""
        return [program for candidate in self._candidates for program in candidate.compiled.programs]

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling."""
        return sum(candidate.compiled.seconds for candidate in self._candidates)

    @property
    def reason(self) -> str:
        """Why this engine, with the figures."""
        if not self._seconds:
            return "no product was timed yet"
        found = [f"{1e3 * seconds:.3g} ms by the {name} engine" for name, seconds in self._seconds.items()]
        figures = f"a product takes {', '.join(found)}"
        if self.refusal:
            return f"no program can be had: {self.refusal}; {figures}"
        if not self._left:
            return figures
        if self._cramped:
            return f"{figures}; {self._cramped}"
        return (
            f"{figures}; {self._made} were made and {max(self._made, self._expected)} are expected, which does not pay"
            f" for the {self._price(self._left[0]):.1f} s that another may take"
        )

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

    @property
    def is_open(self) -> bool:
        """Whether there is an engine that was not tried."""
        return bool(self._left)

    def expect(self, products: int) -> None:
        """So many more products will be asked for."""
        self._expected = max(self._expected, self._made + products)

    def _price(self, candidate: Candidate) -> float:
        return candidate.fixed_price + self._nodes * candidate.node_price

    def _look_ahead(self) -> None:
        each = self._seconds.get("tape", 0.0)
        price = min(map(self._price, self._left), default=math.inf) + self.seconds
        self._enough = price / (SHARE * each) if each else math.inf

    @property
    def may_pay(self) -> bool:
        """Whether it is time to look at what can be afforded; asked before each product, and so in no time."""
        return max(self._made, self._expected) >= self._enough

    def affordable(self) -> Candidate | None:
        """The fastest engine that may be tried now, by what is expected."""
        allowed = SHARE * max(self._made, self._expected) * self._seconds.get("tape", 0.0) - self.seconds
        paying = [candidate for candidate in self._left if self._price(candidate) <= allowed]
        return paying[-1] if paying and self._seconds else None

    def has_room_beside(self, now: Linearization) -> bool:
        """Whether another engine's linearization fits beside this one.

        Where too much is asked for, the machine may kill the process, and there is nothing to go back to.
        """
        needed, allowed = 2 * now.kept_bytes() + _LOADED, budget(self._memory, now.outputs[0].device)
        fits = needed <= allowed
        self._cramped = (
            ""
            if fits
            else f"no other engine was tried, since that may take {readable(needed)} and {readable(allowed)} may be taken"
        )
        if not fits:
            # To look again at each product would take time.
            self._enough = 2 * max(self._made, self._expected)
        return fits

    def counted(self, count: int) -> bool:
        """Count ``count`` vectors more; whether this call is to be timed: those whose number is a power of two are."""
        self._made += count
        self._calls += 1
        return not self._calls & (self._calls - 1)

    def timed(self, linearization: Linearization, count: int, multiply: Callable[[], list[Tensor]]) -> list[Tensor]:
        """``multiply()`` of ``count`` vectors, with a look at the clock."""
        clock = Clock()
        products = multiply()
        # The first of a process pays for what PyTorch loads at it.
        if self._calls > 1:
            self._see(linearization.engine, clock.lap(linearization.outputs[0].device) / count)
            if isinstance(linearization, tape.Tape) and not self._nodes:
                self._nodes = linearization.num_nodes()
            self._look_ahead()
        return products

    def _see(self, engine: str, seconds: float) -> None:
        self._seconds[engine] = min(seconds, self._seconds.get(engine, math.inf))

    def measure(self, linearization: Linearization, multiply: Callable[[Linearization], list[Tensor]]) -> None:
        """Time a product beforehand, if none was."""
        if not self._seconds:
            for _ in range(2):
                self.counted(1)
                self.timed(linearization, 1, lambda: multiply(linearization))

    def attempt(
        self,
        candidate: Candidate,
        now: Linearization,
        make: Make,
        multiply: Callable[[Linearization], list[Tensor]],
        *,
        measured: bool,
    ) -> Linearization:
        """The candidate's linearization if there is one, and if it is ``measured`` faster; otherwise ``now``."""
        with self._lock:
            if candidate not in self._left:
                # Another point has decided; this one stays with what it has.
                return now
            try:
                ours = self._made_beside(candidate, make, now)
                if ours is None:
                    # What cannot be captured cannot be compiled.
                    self._left.clear()
                    return now
                del self._left[: self._left.index(candidate) + 1]
                if measured and not self._is_faster(ours, now, multiply):
                    ours.close()
                    return now
                self._best = candidate.compiled
                now.close()
                return ours
            finally:
                self._look_ahead()

    def _made_beside(self, candidate: Candidate, make: Make, now: Linearization) -> CompiledLinearization | None:
        try:
            ours: CompiledLinearization = untraced(make)(candidate.compiled, now)
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
        for _ in range(_TRIALS):
            for linearization in (now, ours):
                clock = Clock()
                multiply(linearization)
                self._see(linearization.engine, clock.lap(ours.outputs[0].device))
        return _GAIN * self._seconds[ours.engine] < self._seconds[now.engine]

    def settle(self) -> None:
        """Let no clock decide from now on."""
        self._left.clear()

    def named(self, engine: str) -> Candidate | None:
        """The engine of that name, if it is left."""
        return next((candidate for candidate in self._left if candidate.compiled.engine == engine), None)


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

    def begin(self, count: int) -> None:
        """So many vectors are about to come: now is the time to give way to another engine."""
        if self._may_change:
            if count >= _MANY:
                self._auto.expect(count)
                untraced(self._auto.measure)(self._now, self._random_product)
            candidate = self._auto.affordable() if self._auto.may_pay else None
            if candidate is not None and self._auto.has_room_beside(self._now):
                self._try(candidate, measured=True)

    def settle(self, engine: str | None) -> None:
        """Decide for ``engine``, or for what pays by what is expected now; from now on no clock does."""
        if self._may_change:
            self._auto.measure(self._now, self._random_product)
            candidate = self._auto.affordable() if engine is None else self._auto.named(engine)
            if candidate is not None and (engine or self._auto.has_room_beside(self._now)):
                self._try(candidate, measured=engine is None)
        self._auto.settle()

    def _try(self, candidate: Candidate, *, measured: bool) -> None:
        assert self._make is not None
        attempt = untraced(self._auto.attempt)
        self._now = attempt(candidate, self._now, self._make, self._random_product, measured=measured)

    def _random_product(self, linearization: Linearization) -> list[Tensor]:
        everything = Selection(tuple(range(len(self.outputs))), tuple(range(self._num_inputs)))
        return linearization.rmatvec([random_like(output) for output in self.outputs], everything)

    def rmatvec(self, cotangents: Leaves, selection: Selection, *, batched: bool = False) -> list[Tensor]:
        """cotangentsᵀ · J."""
        if not self._is_timed(cotangents, batched):
            return self._now.rmatvec(cotangents, selection, batched=batched)
        return self._timed(lambda: self._now.rmatvec(cotangents, selection, batched=batched), cotangents, batched)

    def matvec(self, tangents: Leaves, selection: Selection, *, batched: bool = False) -> list[Tensor]:
        """J · tangents."""
        if not self._is_timed(tangents, batched):
            return self._now.matvec(tangents, selection, batched=batched)
        return self._timed(lambda: self._now.matvec(tangents, selection, batched=batched), tangents, batched)

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
