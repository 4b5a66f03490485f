"""``Shards``: how flat vectors lie on the ranks of a group, each of which holds a part of their entries."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hesse._ranks.group import Ranks

Ranges = tuple[tuple[int, int], ...]
"""Of entries of a flat vector: the index of the first one, and how many there are."""
Reduce = Literal["sum", "max"]


class Shards:
    """The entries of flat vectors that each rank holds; making it is a collective call.

    Several ranks may hold the same ranges, as in hybrid sharding: then their vectors are equal to the bit, and sums
    count each entry once.

    Args:
        ranks: those that hold vectors together.
        size: how many entries a whole vector has.
        ranges: the entries that this rank holds, in their order here.

    Attributes:
        length: how many entries this rank holds.
        longest: how many the rank with the most entries holds.
        counted: of the entries here, those that this rank counts in a sum.
        mark: tells layouts apart; the same on all ranks.

    Raises:
        ValueError: the ranges of all ranks do not hold each entry once.
    """

    def __init__(self, ranks: Ranks, size: int, ranges: Sequence[tuple[int, int]]) -> None:
        self.ranks, self.size = ranks, size
        self.ranges: Ranges = tuple([(int(first), int(count)) for first, count in ranges])
        layout = ranks.gather("the layout of vectors", lambda: (self.size, self.ranges))
        _require_each_once(layout)
        lengths = [sum([count for _, count in held]) for _, held in layout]
        self.length, self.longest = lengths[ranks.rank], max(lengths)
        self.mark = f"{zlib.crc32(repr(layout).encode()):08x}"
        copies = [rank for rank, (_, held) in enumerate(layout) if held == self.ranges]
        place, number = copies.index(ranks.rank), len(copies)
        self.counted = slice(self.length * place // number, self.length * (place + 1) // number)
        self._is_first_copy = place == 0

    def is_like(self, other: Shards | None) -> bool:
        """Whether vectors lie the same way; the same answer on all ranks."""
        return other is not None and self.ranks is other.ranks and self.mark == other.mark

    def total(self, values: Tensor, reduce: Reduce = "sum") -> Tensor:
        """The sum or the largest of numbers that each rank found of its own entries."""
        if reduce == "max":
            return self.ranks.largest(values, "a maximum")
        return self.ranks.sum(values.clone() if self._is_first_copy else torch.zeros_like(values), "a sum")

    def whole(self, v: Tensor) -> Tensor:
        """All entries of a vector (length,), or of columns (length, k), on every rank."""
        found = torch.zeros(self.size, *v.shape[1:], dtype=v.dtype, device=v.device)
        if self._is_first_copy:
            place = 0
            for first, count in self.ranges:
                found[first : first + count] = v[place : place + count]
                place += count
        return self.ranks.sum(found, "a whole vector")


def _require_each_once(layout: Sequence[tuple[int, Ranges]]) -> None:
    """Raise unless the ranges of all ranks, those of copies taken once, hold each entry once."""
    end, (size, _) = 0, layout[0]
    held = sorted([part for ranges in {ranges for _, ranges in layout} for part in ranges if part[1]])
    for first, count in held:
        if first != end:
            break
        end += count
    else:
        first = size
    if end != size or first != end or {size for size, _ in layout} != {size}:
        raise ValueError(
            f"Ranks should hold each of the {size} entries of a vector once, but entry {min(first, end)} is held"
            f" {'twice' if first < end else 'by none'}. Ranges of two ranks do not overlap, or are the same."
        )
