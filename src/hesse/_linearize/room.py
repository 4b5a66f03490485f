"""The memory that many products at once may take, and how many fit, from what one was measured to take."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from hesse._base.errors import MemoryBudgetError, warn_caller
from hesse._base.memory import DEFAULT_FRACTION, readable
from hesse._linearize import peak

T = TypeVar("T")

_ANY = 2**62


class Room:
    """What a call may add at its peak.

    Args:
        device: where.
        asked: whether the user named the budget: then a product is measured from the second vector on. Otherwise when
            vectors are about to go together.
        refuses: whether a call is refused for which not even one vector at a time fits.

    Attributes:
        each: bytes that a vector takes at its peak, the most that was measured so far; 0 before.
        warned: whether a warning was given that vectors do not fit.
    """

    def __init__(self, device: torch.device, *, asked: bool, refuses: bool = True) -> None:
        self.asked = asked
        self._refuses = refuses
        self.each = 0
        self._device = device
        self._budget = self._for_vectors = _ANY
        self._results = 0
        self._most = _ANY
        self.warned = False

    def begin(self, left: int, results: int, count: int) -> None:
        """A call that may take ``left`` bytes, and leaves ``results`` bytes for ``count`` vectors, begins."""
        self._budget = left
        self._results, self._for_vectors = results, self._budget - results
        self.require(count)

    def measured(self, call: Callable[[], T], count: int) -> T:
        """``call()``, which multiplies ``count`` vectors, with a look at the memory that it takes."""
        result, taken = peak.during(call, self._device)
        if taken is not None:
            self.each = max(self.each, 1, -(-taken // count))
        return result

    def require(self, count: int) -> None:
        """Raise where not even one of the ``count`` vectors fits."""
        if self._refuses and (self.each > self._for_vectors or self._for_vectors <= 0):
            raise self._too_small(count)

    def fits(self, count: int) -> bool:
        """Whether so many vectors at once stay within the budget; not before one was measured."""
        return count <= self._most and 0 < self.each * count <= self._for_vectors

    def is_tight(self, count: int) -> bool:
        """Whether so many vectors come near the budget, so that a look is worth its time."""
        return 2 * count * self.each > self._for_vectors

    @property
    def at_once(self) -> int:
        """How many vectors fit; one, where a named budget is to be held and nothing could be measured yet."""
        if not self.each:
            return 1 if self.asked else self._most
        return max(1, min(self._most, self._for_vectors // self.each))

    def lower(self, count: int, most: int, reason: str) -> None:
        """From now on at most ``most`` vectors at once: ``count`` were too many."""
        self._most = most
        if not self.warned:
            warn_caller(
                f"There was not enough memory for {count} vectors at once ({reason}), so at most {self._most} are"
                " multiplied at once from now on. Give memory= to say beforehand what may be taken."
            )
            self.warned = True
        # What the failed attempt held is in cycles, and in the device's cache.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def exhausted(self, reason: str) -> MemoryBudgetError:
        """One vector was too many."""
        need = f", which takes about {readable(self.each)}" if self.each else ""
        return MemoryBudgetError(
            f"There was not enough memory for a single product{need} ({reason}). Free some, differentiate by fewer"
            " inputs, or write the function as a loss over data, which hesse.LossHessian cuts into microbatches."
        )

    def _too_small(self, count: int) -> MemoryBudgetError:
        parts = f"{readable(self._results)} for the results"
        if self.each:
            parts += f" and {readable(self.each)} while one of them is made"
        allowed = "memory= allows" if self.asked else f"{DEFAULT_FRACTION:.0%} of what is available now is"
        return MemoryBudgetError(
            f"{count} products take about {readable(self._results + self.each)} ({parts}) but {allowed}"
            f" {readable(self._budget)}. Give more memory, or multiply fewer columns at once."
        )
