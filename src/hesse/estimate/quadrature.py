"""Gauss quadrature of zᵀ·f(A)·z by Lanczos from z, with an estimate of what the quadrature leaves out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesse.eigen.basis import Basis
from hesse.products import Products

# A vector whose new part is that small, in units of eps·‖A‖, lies in the basis: it is rounding.
BREAKDOWN = 10


class Probe:
    """Lanczos from one vector, with full reorthogonalization.

    Attributes:
        vector: what is to be multiplied next, (n, 1).
        ended: whether the basis is full or holds the whole Krylov space.
        exhausted: whether it is the latter: then the quadrature is exact up to rounding.
    """

    def __init__(self, products: Products, start: Tensor, steps: int) -> None:
        self.basis = Basis(products, steps, keep_products=False)
        self.vector = start / products.norm(start)
        self.ended = self.exhausted = False
        self._eps = torch.finfo(products.operator.dtype).eps
        self.norm = 0.0

    def step(self, image: Tensor) -> None:
        """Go on by the product of ``vector``."""
        remainder, beta = self.basis.take(self.vector, image)
        self.norm = max(self.norm, float(self.basis.matrix[-1].abs().max()), beta)
        self.exhausted = beta <= BREAKDOWN * self._eps * self.norm or self.basis.size == remainder.shape[0]
        self.ended = self.exhausted or self.basis.size == self.basis.capacity
        if not self.ended:
            self.vector = remainder / beta

    @property
    def rounding(self) -> float:
        """How far the nodes may be off by rounding, eps·‖A‖."""
        return self._eps * self.norm

    def quadrature(self, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Nodes and weights: Ritz values, and squares of the Ritz vectors' parts along the start."""
        steps = self.basis.size if steps is None else steps
        values, coordinates = torch.linalg.eigh(self.basis.matrix[:steps, :steps])
        return values, coordinates[0] ** 2

    @property
    def earlier(self) -> int:
        """The number of steps, about three quarters, whose quadrature tells the error of the present one."""
        return max(1, math.floor(0.75 * self.basis.size))
