"""``jacobi``: the preconditioner by a diagonal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._base.checks import shown
from hesse._operators.operator import Operator
from hesse._ranks.shards import Shards
from hesse._solvers.estimate.diagonal import DiagonalEstimate


class JacobiPreconditioner(Operator):
    """The inverse of a diagonal matrix of positive numbers; made by ``jacobi``."""

    symmetric = True
    positive_semidefinite = True

    def __init__(self, divisors: Tensor, shards: Shards | None = None) -> None:
        self._divisors = divisors.unsqueeze(-1)
        n = len(divisors) if shards is None else shards.size
        self.shape, self.dtype, self.device = (n, n), divisors.dtype, divisors.device
        self.ranks, self.shards = None if shards is None else shards.ranks, shards

    def matmat(self, V: Tensor) -> Tensor:
        """D⁻¹·V."""
        return V / self._divisors


def jacobi(diagonal: Tensor | DiagonalEstimate, *, like: Operator | None = None) -> JacobiPreconditioner:
    r"""The Jacobi preconditioner, :math:`M = |D|^{-1}` for a diagonal D.

    An entry of the wrong sign, as estimates have, counts by its size; one that is zero up to rounding counts as the
    largest, since nothing is known there.

    Args:
        diagonal: (n,), a tensor or what ``hesse.diagonal`` found.
        like: the operator with this diagonal; needed for a tensor where vectors are cut up among ranks, and each rank
            gives its own entries.

    Raises:
        ValueError: it is not of one dimension, or not finite.

    Source: Saad, Iterative Methods for Sparse Linear Systems, SIAM 2003, section 10.2.

    Example:
        >>> import torch, hesse
        >>> A = torch.diag(torch.tensor([1.0, 100.0, 10000.0]))
        >>> hesse.solve(A, torch.ones(3), preconditioner=hesse.jacobi(hesse.diagonal(A))).num_iterations
        tensor([1])
    """
    values: Any = diagonal.estimate if isinstance(diagonal, DiagonalEstimate) else diagonal
    source = diagonal if isinstance(diagonal, DiagonalEstimate) else like
    if source is not None and not isinstance(source, DiagonalEstimate | Operator):
        raise TypeError(f"like given to jacobi should be an operator but is {shown(like)}.")
    shards = None if source is None else source.shards

    def largest_here() -> float:
        if (
            not isinstance(values, Tensor)
            or values.dim() != 1
            or (shards is not None and len(values) != shards.length)
            or not bool(torch.isfinite(values).all())
        ):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values)
            n = "n" if shards is None else shards.length
            raise ValueError(f"The diagonal given to jacobi should be finite and of shape ({n},) but has {shape}.")
        return float(values.abs().max()) if len(values) else 0.0

    found = [largest_here()] if shards is None else shards.ranks.gather("the largest entry in jacobi", largest_here)
    sizes = values.detach().abs().to(torch.promote_types(values.dtype, torch.float32))
    largest = max(found) or 1.0
    return JacobiPreconditioner(torch.where(sizes > torch.finfo(sizes.dtype).eps * largest, sizes, largest), shards)
