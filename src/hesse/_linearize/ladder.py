"""When ``engine="auto"`` tries a faster engine: once a tenth of what all products take pays for its price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch

from hesse._base.memory import budget, readable

# Of the seconds that all products take on the tape as much may go into trying other engines.
SHARE = 0.1
# An engine that gains less is not worth the memory it takes.
_GAIN = 1.05
# What tracing and compiling load into a process was measured to be 180 to 400 MiB.
_LOADED = 512 * 2**20


class Way(Protocol):
    """An engine that makes programs."""

    @property
    def engine(self) -> str:
        """Its name."""
        ...

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling so far."""
        ...


W = TypeVar("W", bound=Way)


class Candidate(NamedTuple, Generic[W]):
    """An engine that may be tried, and what that is expected to cost in seconds: at any rate, and for each node."""

    way: W
    fixed_price: float
    node_price: float


class Ladder(Generic[W]):
    """Counts products and looks at the clock, and says which engine may be tried now.

    An engine is tried once a tenth of what all products take on the tape, those made so far or those expected if they
    are more, would pay for it; it is taken if it is right and was measured faster. So whatever comes, the products take
    about a tenth longer than on the tape alone at most.

    Args:
        candidates: what may be tried, the cheapest first.
        expected: how many products will be asked for, at all points together; 0 where nobody knows.
        memory: bytes, or a size, that a call may add; None for half of what is available then.

    Attributes:
        refusal: why no program can be had, or None.
    """

    def __init__(self, candidates: Sequence[Candidate[W]], expected: int, memory: int | str | None = None) -> None:
        self._candidates, self._left = candidates, list(candidates)
        self._expected, self._made, self._calls = expected, 0, 0
        self._memory = memory
        self.refusal: str | None = None
        # Why nothing was tried, though it would have paid.
        self._cramped = ""
        # Seconds a vector by each engine, the least that was seen; what the tape keeps, which compiling grows with.
        self._seconds: dict[str, float] = {}
        self._nodes = 0
        # How many products pay for the next engine.
        self._enough = math.inf

    @property
    def seconds(self) -> float:
        """Spent on capturing and compiling."""
        return sum(candidate.way.seconds for candidate in self._candidates)

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

    @property
    def is_open(self) -> bool:
        """Whether there is an engine that was not tried."""
        return bool(self._left)

    def expect(self, products: int) -> None:
        """So many more products will be asked for."""
        self._expected = max(self._expected, self._made + products)

    def settle(self) -> None:
        """Let no clock decide from now on."""
        self._left.clear()

    def named(self, engine: str) -> Candidate[W] | None:
        """The engine of that name, if it is left."""
        return next((candidate for candidate in self._left if candidate.way.engine == engine), None)

    def counted(self, count: int) -> bool:
        """Count ``count`` vectors more; whether this call is to be timed: those whose number is a power of two are."""
        self._made += count
        self._calls += 1
        return not self._calls & (self._calls - 1)

    def see(self, engine: str, seconds: float) -> None:
        """A product by that engine took so long."""
        self._seconds[engine] = min(seconds, self._seconds.get(engine, math.inf))

    @property
    def may_pay(self) -> bool:
        """Whether it is time to look at what can be afforded; asked before each product, and so in no time."""
        return max(self._made, self._expected) >= self._enough

    def affordable(self) -> Candidate[W] | None:
        """The fastest engine that may be tried now, by what is expected."""
        allowed = SHARE * max(self._made, self._expected) * self._seconds.get("tape", 0.0) - self.seconds
        paying = [candidate for candidate in self._left if self._price(candidate) <= allowed]
        return paying[-1] if paying and self._seconds else None

    def has_room_beside(self, kept: int, device: torch.device) -> bool:
        """Whether another engine fits beside what ``kept`` bytes are kept of.

        Where too much is asked for, the machine may kill the process, and there is nothing to go back to.
        """
        needed, allowed = 2 * kept + _LOADED, budget(self._memory, device)
        fits = needed <= allowed
        need = f"that may take {readable(needed)}, and {readable(allowed)} may be taken"
        self._cramped = "" if fits else f"no other engine was tried, since {need}"
        if not fits:
            # To look again at each product would take time.
            self._enough = 2 * max(self._made, self._expected)
        return fits

    @staticmethod
    def gains(seconds: float, now: float) -> bool:
        """Whether a product in ``seconds`` is worth a change from one in ``now``, the same product by both."""
        return _GAIN * seconds < now

    def _tried(self, candidate: Candidate[W]) -> None:
        """That one is tried now; those that are cheaper need not be any more."""
        del self._left[: self._left.index(candidate) + 1]

    def _price(self, candidate: Candidate[W]) -> float:
        return candidate.fixed_price + self._nodes * candidate.node_price

    def _look_ahead(self) -> None:
        each = self._seconds.get("tape", 0.0)
        price = min(map(self._price, self._left), default=math.inf) + self.seconds
        self._enough = price / (SHARE * each) if each else math.inf
