"""The rows of an identity matrix, made a few at a time: a whole one would take as much memory as their products."""

from __future__ import annotations

import torch
from torch import Tensor


class UnitVectors:
    """Looks like the identity of size n to whoever takes slices of its rows."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = torch.Size([size, size])
        self.dtype, self.device = dtype, device

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        vectors = torch.zeros(stop - start, self.shape[1], dtype=self.dtype, device=self.device)
        vectors.diagonal(start).fill_(1)
        return vectors
