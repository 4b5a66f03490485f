"""Which batches stay linearized between products: as many as fit into the memory, by their measured sizes."""

from __future__ import annotations

from collections.abc import Hashable

from hesse._data.terms import Term

# What an evaluation and a product take beside what they leave, in units of what is kept of the batch. PyTorch's
# allocator was measured to give 0.2 to 1.1 (convolutional networks, transformers, perceptrons); a process takes up to
# 2.2, with what oneDNN and the heap hold besides.
_PASSING = 2.0


class Kept:
    """Linearized batches by their place in the data, within ``budget`` bytes.

    Attributes:
        bytes: what the kept ones take.
        largest: size of the largest batch seen, kept or not.
        summed: bytes of the matrix that products are added up in.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.largest = 0
        self.summed = 0
        self._terms: dict[Hashable, tuple[Term, int]] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def get(self, place: Hashable) -> Term | None:
        """The term at a place, if it was kept."""
        found = self._terms.get(place)
        return None if found is None else found[0]

    def see(self, size: int) -> None:
        """Take note of the size of a batch before anything is multiplied with it."""
        self.largest = max(self.largest, size)

    def offer(self, place: Hashable, term: Term, size: int) -> None:
        """Keep a term if there is room for it, for one more that is made anew, and for what passes in a product."""
        if self.bytes + size + needed(self.largest) <= self.budget:
            self._terms[place] = term, size
            self.bytes += size

    def make_room(self, size: int) -> None:
        """Let go of what was kept last until a batch of that size can be linearized and multiplied."""
        while self._terms and self.bytes + needed(size) > self.budget:
            self.bytes -= self._terms.popitem()[1][1]

    def left(self) -> int:
        """Bytes that may be taken beside what is kept, the largest batch seen and the sum of products."""
        return self.budget - self.bytes - self.largest - self.summed

    def clear(self) -> None:
        """Free all."""
        self._terms.clear()
        self.bytes = 0


def needed(size: int) -> int:
    """Bytes that linearizing and multiplying a batch takes at its peak, when ``size`` are kept of it."""
    return int((1 + _PASSING) * size)
