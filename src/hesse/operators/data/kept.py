"""Which batches stay linearized between products: as many as fit into the memory, by their measured sizes."""

from __future__ import annotations

from collections.abc import Hashable

from hesse.operators.data.terms import Term

# What a product, or an evaluation, takes beside what it leaves, as a part of what is kept of the batch.
_PASSING = 1.5


class Kept:
    """Linearized batches by their place in the data, within ``budget`` bytes.

    Attributes:
        bytes: what the kept ones take.
        largest: size of the largest batch seen, kept or not.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.largest = 0
        self._terms: dict[Hashable, Term] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def get(self, place: Hashable) -> Term | None:
        """The term at a place, if it was kept."""
        return self._terms.get(place)

    def offer(self, place: Hashable, term: Term, size: int) -> None:
        """Keep a term if there is room for it, for one more that is made anew, and for what passes in a product."""
        self.largest = max(self.largest, size)
        if self.bytes + size + needed(self.largest) <= self.budget:
            self._terms[place] = term
            self.bytes += size

    def clear(self) -> None:
        """Free all."""
        self._terms.clear()
        self.bytes = 0


def needed(size: int) -> int:
    """Bytes that linearizing and multiplying a batch takes at its peak, when ``size`` are kept of it."""
    return int((1 + _PASSING) * size)
