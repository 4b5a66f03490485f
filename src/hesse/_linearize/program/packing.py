"""Packed sequences: how the entries of sequences of several lengths stand one after another, and how to pad them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Packing:
    """Entries packed as PyTorch packs them: those of each time together, the longest sequences first.

    Args:
        sizes: how many sequences there are at each time.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes, self.batch = sizes, sizes[0]
        places = [t * self.batch + row for t, size in enumerate(sizes) for row in range(size)]
        self._places = torch.tensor(places, device="cpu")

    @property
    def lengths(self) -> list[int]:
        """Of the sequences."""
        return [sum(size > row for size in self.sizes) for row in range(self.batch)]

    def padded(self, data: Tensor) -> Tensor:
        """As (length, batch, …), with zeros where a sequence has ended."""
        whole = data.new_zeros(len(self.sizes) * self.batch, *data.shape[1:]).index_copy(0, self._places, data)
        return whole.reshape(len(self.sizes), self.batch, *data.shape[1:])

    def packed(self, padded: Tensor) -> Tensor:
        """The entries of (length, batch, …), longer ones included."""
        return padded[: len(self.sizes)].flatten(0, 1).index_select(0, self._places)

    def mask(self, like: Tensor) -> Tensor:
        """One (length, batch, 1) where a sequence has not ended, zero elsewhere."""
        marks = [[[float(row < size)] for row in range(self.batch)] for size in self.sizes]
        return torch.tensor(marks, dtype=like.dtype, device=like.device)


def sizes_of(lengths: Sequence[int]) -> list[int]:
    """How many sequences of these lengths there are at each time."""
    return [sum(length > t for length in lengths) for t in range(max(lengths))]
