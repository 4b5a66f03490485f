"""``nystrom``: a low-rank preconditioner for an operator whose largest eigenvalues stand out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hesse._base import checks, precision
from hesse._operators.operator import Operator
from hesse._operators.probes import Rng
from hesse._solvers import columns as blocks
from hesse._solvers.run import Products

# A curvature that small, in units of eps·‖A·Ω‖, is zero as far as rounding can tell.
ROUNDING = 10
# Vectors that are held for each column: Ω, A·Ω and what is made of both; and those that pass.
EACH, PASSING = 3, 3


class NystromPreconditioner(Operator):
    r"""About the inverse of A + μ·I, up to a factor; made by ``nystrom``.

    Attributes:
        values: approximate eigenvalues of A, descending, (r,), float64 on the CPU.
        vectors: their eigenvectors, as columns (n, r).
        num_products: products that it took.
    """

    symmetric = True
    positive_semidefinite = True

    def __init__(self, like: Operator, values: Tensor, vectors: Tensor, shift: float, num_products: int) -> None:
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self.ranks, self.shards = like.ranks, like.shards
        self._like = like
        self.values, self.vectors, self.num_products = values, vectors, num_products
        factors = (values.min() + shift) / (values + shift) if len(values) else values
        # Less than rounding of V − U·UᵀV leaves no matrix that is positive definite.
        self._factors = factors.clamp(min=ROUNDING * torch.finfo(self.dtype).eps) - 1

    def matmat(self, V: Tensor) -> Tensor:
        """V, its parts along the eigenvectors multiplied by (λ_r + μ)/(λ + μ)."""
        with precision.Exact():
            parts = self._like.gram(self.vectors, V)
            return V + self.vectors @ (blocks.like(self._factors, V).unsqueeze(-1) * parts)


def nystrom(
    A: Any, rank: int, *, shift: float = 0.0, memory: int | str | None = None, rng: Rng = None
) -> NystromPreconditioner:
    r"""The Nyström preconditioner of :math:`A + \mu I` for a positive semidefinite A, from ``rank`` products with A.

    .. math:: M = (\lambda_r + \mu)\, U (\Lambda + \mu I)^{-1} U^\top + (I - U U^\top), \quad
        U \Lambda U^\top = (A \Omega) (\Omega^\top A \Omega)^{+} (A \Omega)^\top

    for a random Ω of r columns. Conjugate gradients then see a condition number of about
    :math:`(\lambda_r + \mu) / (\lambda_{\min} + \mu)`.

    Args:
        A: a positive semidefinite operator, without the shift.
        rank: r, at least 1; of more than n, n.
        shift: μ, what the system to be solved adds to A.
        memory: what the vectors may take, beside what a product takes: bytes, or a size such as ``"2GiB"``, at least
            that of 3·r + 3 vectors; a quarter of the device's memory where it is not given.
        rng: seed, or NumPy or PyTorch generator, of Ω.

    Raises:
        ValueError: A is not square, not symmetric, or not positive semidefinite; or a number is out of range.
        NonFiniteProductError: a product holds infinities or NaNs.
        MemoryBudgetError: ``memory`` allows fewer vectors.

    Source: Frangella, Tropp and Udell, "Randomized Nyström preconditioning", SIAM J. Matrix Anal. Appl. 44 (2023)
    718–752, algorithm 2.1 and equation (1.3).

    Example:
        >>> import torch, hesse
        >>> A = torch.diag(torch.cat([torch.tensor([1e4, 1e3, 1e2]), torch.linspace(0, 1, 97)]))
        >>> M = hesse.nystrom(A, 10, shift=1.0, rng=0)
        >>> b, H = torch.ones(100), hesse.as_operator(A).shift(1.0)
        >>> int(hesse.solve(H, b, preconditioner=M).num_iterations) < int(hesse.solve(H, b).num_iterations)
        True
    """
    checks.wholes("nystrom", 1, rank=rank)
    checks.numbers("nystrom", shift=shift)
    if math.isinf(shift):
        raise ValueError("shift given to nystrom should be finite but is inf.")
    with Products(A, "nystrom", max_products=rank, callback=None, progress=False, memory=memory) as products:
        products.require_symmetric()
        operator = products.operator
        products.agree(rank=rank, shift=shift)
        rank = min(rank, products.size)
        products.plan(EACH * rank + PASSING, EACH * rank + PASSING)
        probes, _ = blocks.orthonormalize(
            operator, blocks.empty(operator), operator.randn(rank, products.generator(rng))
        )
        images = products.multiply(probes)
        # Roots are taken near one, where a power of two changes no digit of theirs.
        unit = int(blocks.exponents(blocks.norms(operator, images).norm()))
        images = blocks.ldexp(images, -unit)
        # Rounding makes the core indefinite; a shift of about that size, taken away at the end, makes up for it.
        nudge = torch.finfo(operator.dtype).eps * float(blocks.norms(operator, images).square().sum().sqrt())
        images = images.add(probes, alpha=nudge)
        core = blocks.gram(operator, probes, images)
        del probes
        basis, coefficients = blocks.orthonormalize(operator, blocks.empty(operator), images)
        del images
        weights, axes = torch.linalg.eigh(0.5 * (core + core.mT))
        if bool((weights < -ROUNDING * nudge).any()):
            raise ValueError(
                f"nystrom needs a positive semidefinite operator but this {type(operator).__name__} has a direction of"
                " negative curvature. Add a shift to it, or use jacobi."
            )
        kept = weights > 0.5 * nudge
        root = coefficients @ (axes[:, kept] / weights[kept].sqrt())
        turn, singular, _ = torch.linalg.svd(root, full_matrices=False)
        # Of a singular matrix the others are rounding, by whose least one all would be divided.
        known = singular**2 > 2 * nudge
        turn, singular = turn[:, known], singular[known]
        values = blocks.ldexp(singular**2 - nudge, products.exponent + unit)
        return NystromPreconditioner(operator, values, basis @ blocks.like(turn, basis), shift, products.count)
