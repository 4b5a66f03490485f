"""``engine="auto"``: the tape, until so many products are made or expected that a program would repay its price."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from hesse.clock import Clock
from hesse.engines import tape
from hesse.engines.compiled import Compiled, CompiledLinearization, generator_states, random_like
from hesse.engines.linearization import Leaves, Linearization, Map, Selection
from hesse.errors import CaptureError, warn_caller
from hesse.functional.evaluation import untraced
from hesse.memory import is_out_of_memory

Direction = Literal["rmatvec", "matvec"]

# Of the seconds that all products take on the tape as much may go into trying a program.
SHARE = 0.1
# What a program is expected to cost, in seconds: in any case, and for each node of the tape's graph.
FIXED_PRICE, NODE_PRICE = 12.0, 0.1
# A program that gains less is not worth the memory it takes.
_GAIN = 1.05
_TRIALS = 3
# So many vectors at once, or more, are worth measuring a product beforehand.
_MANY = 64


class Auto:
    """Which engine makes the products of one function, at all of its points.

    A program is tried once a tenth of what all products take on the tape, those made so far or those expected if they
    are more, would pay for it; it is taken if it is right and was measured faster. So whatever comes, the products take
    at most a tenth longer than on the tape alone.

    Args:
        compiled: makes programs; it goes on with the tape where there is none.
        expected: how many products will be asked for, at all points together; 0 where nobody knows.

    Attributes:
        chosen: the engine that was decided for, or None.
        reason: why, with the figures.
    """

    def __init__(self, compiled: Compiled, expected: int) -> None:
        self._compiled = compiled
        self._expected, self._made, self._calls = expected, 0, 0
        self.chosen: Literal["tape", "compiled"] | None = None
        # Seconds a vector, the least that was seen, and what a program is expected to cost; unknown before a product.
        self._tape_seconds, self._program_seconds, self._price = math.inf, math.inf, math.inf
        self._lock = threading.RLock()

    @property
    def programs(self) -> list[Any]:
        """The programs compiled so far."""
        return self._compiled.programs

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling."""
        return self._compiled.seconds

    @property
    def refusal(self) -> str | None:
        """Why no program can be had, once one was tried."""
        return self._compiled.refusal

    @property
    def reason(self) -> str:
        """Why this engine, with the figures."""
        if self._compiled.refusal:
            return self._compiled.reason
        if self._tape_seconds == math.inf:
            return "no product was timed yet"
        figures = f"a product takes {1e3 * self._tape_seconds:.3g} ms on the tape"
        if self._program_seconds < math.inf:
            return f"{figures} and {1e3 * self._program_seconds:.3g} ms compiled"
        return (
            f"{figures}, {self._made} were made and {max(self._made, self._expected)} are expected, which does not pay"
            f" for up to {self._price:.0f} s of compiling"
        )

    def linearize(self, map: Map, point: Leaves, arguments: Any, *, name: str) -> Linearization:
        """The linearization of ``map``: by the engine that was decided for, or by the tape, which may yet give way."""
        if self.chosen == "compiled":
            return self._compiled.linearize(map, point, arguments, name=name)
        states = generator_states(point) if self.chosen is None else {}
        taped = tape.linearize(map, point, name=name)
        if self.chosen == "tape":
            return taped
        return Adaptive(self, taped, lambda: self._compiled.beside(taped, states, map, point, arguments))

    def expect(self, products: int) -> None:
        """So many more products will be asked for."""
        self._expected = max(self._expected, self._made + products)

    @property
    def pays(self) -> bool:
        """Whether a program may be tried now."""
        return self._price < math.inf and SHARE * max(self._made, self._expected) * self._tape_seconds >= self._price

    def measure(self, taped: tape.Tape) -> None:
        """Time a product beforehand, if none was."""
        if self._tape_seconds == math.inf:
            for _ in range(2):
                self.counted(1)
                self.timed(taped, 1, _product(taped, taped))

    def counted(self, count: int) -> bool:
        """Count ``count`` vectors more; whether this call is to be timed: those whose number is a power of two are."""
        self._made += count
        self._calls += 1
        return not self._calls & (self._calls - 1)

    def timed(self, taped: tape.Tape, count: int, multiply: Callable[[], list[Tensor]]) -> list[Tensor]:
        """``multiply()`` of ``count`` vectors, with a look at the clock."""
        clock = Clock()
        products = multiply()
        # The first of a process pays for what PyTorch loads at it.
        if self._calls > 1:
            self._tape_seconds = min(self._tape_seconds, clock.lap(taped.outputs[0].device) / count)
            self._price = FIXED_PRICE + NODE_PRICE * taped.num_nodes()
        return products

    def attempt(self, taped: tape.Tape, make: Callable[[], CompiledLinearization], *, measured: bool) -> Linearization:
        """The program's linearization if there is one, and if it is ``measured`` faster; the tape otherwise."""
        with self._lock:
            if self.chosen is not None:
                # Another point has decided; this one stays with what it has.
                return taped
            ours = self._made_beside(make)
            if ours is not None and measured and not self._is_faster(ours, taped):
                ours.close()
                ours = None
            if ours is None:
                self.chosen = "tape"
                return taped
            self.chosen = "compiled"
            taped.close()
            return ours

    def _made_beside(self, make: Callable[[], CompiledLinearization]) -> CompiledLinearization | None:
        try:
            ours: CompiledLinearization = untraced(make)()
        except Exception as error:
            if not (isinstance(error, CaptureError) or is_out_of_memory(error)):
                raise
            reason = str(error).strip().split("\n", 1)[0].rstrip(".")
            self._compiled.refusal = reason
            warn_caller(f'engine="auto" goes on with the tape: {reason}.')
            return None
        return ours

    def _is_faster(self, ours: CompiledLinearization, taped: tape.Tape) -> bool:
        for _ in range(_TRIALS):
            self._tape_seconds = min(self._tape_seconds, _seconds(taped, taped))
            self._program_seconds = min(self._program_seconds, _seconds(ours, taped))
        return _GAIN * self._program_seconds < self._tape_seconds

    def settle(self) -> None:
        """Decide now, so that no clock does from now on."""
        if self.chosen is None:
            self.chosen = "tape"


class Adaptive(Linearization):
    """A linearization by the tape, until its engine decides for a program."""

    create_graph = False

    def __init__(self, auto: Auto, taped: tape.Tape, make: Callable[[], CompiledLinearization]) -> None:
        self.outputs, self.aux = taped.outputs, taped.aux
        self._auto, self._taped = auto, taped
        self._make: Callable[[], CompiledLinearization] | None = make
        self._now: Linearization = taped

    @property
    def engine(self) -> str:  # type: ignore[override]  # it changes, and nobody sets it
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
        return self._now is self._taped and self._auto.chosen is None and self._make is not None

    def begin(self, count: int) -> None:
        """So many vectors are about to come: now is the time to give way to a program."""
        if self._may_change:
            if count >= _MANY:
                self._auto.expect(count)
                untraced(self._auto.measure)(self._taped)
            if self._auto.pays:
                self._change(measured=True)

    def settle(self, engine: str | None) -> None:
        """Decide for ``engine``, or for what pays by what is expected now; from now on no clock does."""
        if self._may_change:
            self._auto.measure(self._taped)
            if engine == "compiled" or (engine is None and self._auto.pays):
                self._change(measured=engine is None)
            self._auto.settle()

    def _change(self, *, measured: bool) -> None:
        assert self._make is not None
        self._now = untraced(self._auto.attempt)(self._taped, self._make, measured=measured)

    def rmatvec(self, cotangents: Leaves, selection: Selection, *, batched: bool = False) -> list[Tensor]:
        """cotangentsᵀ · J."""
        return self._multiply("rmatvec", cotangents, selection, batched)

    def matvec(self, tangents: Leaves, selection: Selection, *, batched: bool = False) -> list[Tensor]:
        """J · tangents."""
        return self._multiply("matvec", tangents, selection, batched)

    def _multiply(self, direction: Direction, vectors: Leaves, selection: Selection, batched: bool) -> list[Tensor]:
        def multiply() -> list[Tensor]:
            products: list[Tensor] = getattr(self._now, direction)(vectors, selection, batched=batched)
            return products

        if not self._may_change:
            return multiply()
        count = len(vectors[0]) if batched else 1
        if not self._auto.counted(count):
            return multiply()
        products: list[Tensor] = untraced(self._auto.timed)(self._taped, count, multiply)
        return products

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes kept alive for products by the engine that makes them now."""
        return self._now.kept_bytes(beside)

    def close(self) -> None:
        """Free what is kept."""
        self._now.close()
        self._make = None


def _product(linearization: Linearization, taped: tape.Tape) -> Callable[[], list[Tensor]]:
    """A product with a random vector."""
    vectors = [random_like(output) for output in taped.outputs]
    everything = Selection(tuple(range(len(vectors))), tuple(range(taped.num_inputs)))
    return lambda: linearization.rmatvec(vectors, everything)


def _seconds(linearization: Linearization, taped: tape.Tape) -> float:
    multiply = _product(linearization, taped)
    clock = Clock()
    multiply()
    return clock.lap(taped.outputs[0].device)
