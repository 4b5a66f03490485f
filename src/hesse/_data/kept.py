"""Which batches stay linearized between products: as many as fit into the memory, by their measured sizes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from hesse._linearize.guard import Remembered, are_stale

# What an evaluation and a product take beside what they leave, in units of what is kept of the batch. PyTorch's
# allocator was measured to give 0.2 to 1.1 (convolutional networks, transformers, perceptrons); a process takes up to
# 2.2, with what oneDNN and the heap hold besides.
_PASSING = 2.0


T = TypeVar("T")


class Kept(Generic[T]):
    """Linearized batches by their place in the data, within ``budget`` bytes.

    Attributes:
        bytes: what the kept ones take.
        largest: size of the largest batch seen, kept or not.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.largest = 0
        self._terms: dict[Hashable, tuple[T, int, Remembered]] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def get(self, place: Hashable) -> T | None:
        """The term at a place, if it was kept."""
        found = self._terms.get(place)
        return None if found is None else found[0]

    def see(self, size: int) -> None:
        """Take note of the size of a batch before anything is multiplied with it."""
        self.largest = max(self.largest, size)

    def offer(self, place: Hashable, term: T, size: int, batch: Remembered) -> None:
        """Keep a term if there is room for it, for one more that is made anew, and for what passes in a product."""
        if self.bytes + size + needed(self.largest) <= self.budget:
            self._terms[place] = term, size, batch
            self.bytes += size

    def forget_stale(self, *places: Hashable) -> None:
        """Let go of those of the terms (all, where none are named) whose batch has changed in memory that they share.

        It may have been written into, or be one that a loader fills anew each time.
        """
        asked = [place for place in places or tuple(self._terms) if place in self._terms]
        for place, is_stale in zip(asked, are_stale([self._terms[place][2] for place in asked]), strict=True):
            if is_stale:
                self.bytes -= self._terms.pop(place)[1]

    def shrink(self, place: Hashable, size: int) -> None:
        """A term, if it is kept, has let go of so many bytes."""
        if place in self._terms:
            term, before, batch = self._terms[place]
            self._terms[place] = term, before - size, batch
            self.bytes -= size

    def make_room(self, size: int) -> None:
        """Let go of what was kept last until a batch of that size can be linearized and multiplied."""
        while self._terms and self.bytes + needed(size) > self.budget:
            self.bytes -= self._terms.popitem()[1][1]

    def left(self) -> int:
        """Bytes that may be taken beside what is kept and the largest batch seen."""
        return self.budget - self.bytes - self.largest

    def terms(self) -> list[T]:
        """Those that are kept."""
        return [term for term, *_ in self._terms.values()]

    def clear(self) -> None:
        """Free all."""
        self._terms.clear()
        self.bytes = 0


def needed(size: int) -> int:
    """Bytes that linearizing and multiplying a batch takes at its peak, when ``size`` are kept of it."""
    return int((1 + _PASSING) * size)
