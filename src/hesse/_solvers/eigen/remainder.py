"""How far out eigenvalues can lie that are not known: Lanczos from a fresh random vector, away from those that are."""

from __future__ import annotations

import math

import numpy as np
import scipy
import torch
from torch import Tensor

from hesse._operators.probes import Rng
from hesse._solvers.eigen.basis import BREAKDOWN, orthogonalize
from hesse._solvers.run import Products

# With which probability the random vector may be so unlucky that a bound is wrong.
RISK = 1e-4
# A bound is known to this factor in its distance from the largest Ritz value.
PRECISION = 1.001


class Remainder:
    r"""Lanczos on B, the restriction of A to the complement of known vectors, from a random unit vector v.

    The vectors of Lanczos are :math:`v_{j+1} = p_j(B) v` for polynomials that grow fast away from their zeros, the Ritz
    values. Where x is an eigenvector of B for λ, :math:`|p_j(\lambda)| \, |x^\top v| = |x^\top v_{j+1}| \le 1`; and
    :math:`|x^\top v| < \delta` has a probability of at most :math:`\delta \sqrt{2 n / \pi}`. So each end of the
    spectrum of B lies within the place where :math:`|p_j| = 1 / \delta`, whatever the eigenvalues and how many equal
    ones there are.

    Only three vectors of Lanczos are held: the argument does not need them to be orthogonal to those before.

    Args:
        products: the question's products.
        known: orthonormal columns (n, any) to stay away from.
        scale: of the operator, that rounding is measured by.
        rng: seed, or NumPy or PyTorch generator, of v.

    Source: van Dorsselaer, Hochstenbach and van der Vorst, "Computing probabilistic bounds for extreme eigenvalues of
    symmetric matrices with the Lanczos method", SIAM J. Matrix Anal. Appl. 22 (2000) 837–852.
    """

    def __init__(self, products: Products, known: Tensor, scale: float, rng: Rng) -> None:
        self._products = products
        self._known = known
        self._scale = scale
        start, _, norm = orthogonalize(products, [known], products.operator.randn(1, rng).to(known.device))
        self.start = start / float(norm)
        self._vector = self._before = self.start
        self._diagonal: list[float] = []
        self._beside: list[float] = []
        self.exhausted = False

    def step(self) -> None:
        """One product."""
        # Away from what is known, products do not tell the norm.
        image = self._products.multiply(self._vector, measure=False)
        along = float(self._products.operator.gram(self._vector, image))
        image = image - along * self._vector
        if self._beside:
            image = image - self._beside[-1] * self._before
        image, _, norms = orthogonalize(self._products, [self._known], image)
        norm = float(norms)
        self._diagonal.append(along)
        self._beside.append(norm)
        self.exhausted = norm <= BREAKDOWN * torch.finfo(image.dtype).eps * max(self._scale, abs(along))
        if not self.exhausted:
            self._before, self._vector = self._vector, image / norm

    @property
    def num_steps(self) -> int:
        """Products made."""
        return len(self._diagonal)

    def ends(self, side: int) -> tuple[float, float]:
        """The largest Ritz value of side·B, and what no eigenvalue of side·B exceeds but for ``RISK``."""
        values = side * scipy.linalg.eigvalsh_tridiagonal(self._diagonal, self._beside[:-1])
        best = float(values.max())
        if self.exhausted:
            return best, best
        dimension = self._products.size - self._known.shape[1]
        level = math.log(math.sqrt(2 * dimension / math.pi) / RISK) + float(np.log(self._beside).sum())

        def exceeds(distance: float) -> bool:
            """Whether |p_j| is at least 1/δ so far beyond the largest Ritz value."""
            return float(np.log(best - values + distance).sum()) >= level

        # Beyond exp(level/j) all factors together are large enough; a distance below rounding says nothing.
        low = torch.finfo(self.start.dtype).eps * max(self._scale, float(np.abs(values).max()), max(self._beside))
        high = max(low, math.exp(level / len(values)))
        while high > PRECISION * low:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if exceeds(middle) else (middle, high)
        return best, best + high
