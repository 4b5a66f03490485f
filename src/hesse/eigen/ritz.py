"""Ritz pairs: what a basis knows of an operator's eigenpairs."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Ritz:
    """Ritz pairs of a basis.

    Attributes:
        values: shape (size,), float64.
        coordinates: the Ritz vectors' coordinates in the basis, as columns (size, size).
        estimates: their residual norms as Lanczos estimates them, shape (size,).
        locked: which are known to be eigenpairs, shape (size,), bool.
        slack: values nearer than that count as equal.
    """

    values: Tensor
    coordinates: Tensor
    estimates: Tensor
    locked: Tensor
    slack: float

    def __len__(self) -> int:
        return len(self.values)
