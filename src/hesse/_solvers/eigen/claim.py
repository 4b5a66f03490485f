"""What must be true of an operator for an answer to miss no eigenvalue, and what it follows from."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Claim:
    """That at most ``allowed`` eigenvalues of side·A exceed ``threshold``; side is 1 or −1."""

    side: int
    threshold: float
    allowed: int

    def follows(self, values: Tensor, coupling: Tensor, bound: float) -> bool:
        r"""Whether it is true if no eigenvalue of side·A, away from some Ritz vectors, exceeds ``bound``.

        Let Y be the Ritz vectors, Θ their values, R = A·Y − Y·Θ, and B the restriction of A to the complement of Y.
        Then A has the blocks Θ, R and B, and where B < s, it has as many eigenvalues above s as
        :math:`\Theta + R^\top (s - B)^{-1} R`, which is at most :math:`\Theta + R^\top R / (s - \mathrm{bound})`.

        Args:
            values: Θ, (size,), float64.
            coupling: RᵀR, (size, size), float64.
            bound: of side·B.

        Source: Haynsworth, "Determination of the inertia of a partitioned Hermitian matrix", Linear Algebra Appl. 1
        (1968) 73–81.
        """
        room = self.threshold - bound
        if not room > 0:
            return False
        largest = torch.linalg.eigvalsh(torch.diag(self.side * values) + coupling / room)
        return int((largest > self.threshold).sum()) <= self.allowed

    def refuted_by(self, values: Tensor) -> bool:
        """Whether Ritz values of A, which interlace its eigenvalues, show that it is false."""
        return int((self.side * values > self.threshold).sum()) > self.allowed
