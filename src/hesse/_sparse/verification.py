"""Whether a sparse matrix is the whole matrix: random products of both, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR
from hesse._base.errors import NonFiniteProductError

# In roundings of what is added up in a row.
_ALLOWED = 100.0


class Difference(NamedTuple):
    """Where a sparse matrix differs most from the operator, in units of what rounding allows."""

    row: int
    found: float
    expected: float


def difference(
    multiply: Callable[[Tensor], Tensor],
    again: Callable[[], Tensor],
    matrix: Tensor,
    vectors: Tensor,
    precision: torch.dtype,
) -> Difference | None:
    r"""A row in which the products with two random vectors differ by more than rounding, or None.

    Allowed are a hundred roundings of :math:`\sum_j |a_{ij} v_j|`. Where that is not enough, both sides are computed
    anew with scaled vectors: how far they are from linear tells how they round on the way.

    Args:
        multiply: the operator's products with vectors, one a row.
        again: the matrix once more, from seeds times ``FACTOR``.
        matrix: the sparse matrix in compressed rows.
        vectors: random vectors, one a row.
        precision: the dtype that rounds most on the way.

    Raises:
        NonFiniteProductError: a product holds infinities or NaNs.
    """
    expected, found = multiply(vectors), _times(matrix, vectors)
    if not bool(torch.isfinite(expected).all() and torch.isfinite(found).all()):
        raise NonFiniteProductError(
            "The products that to_sparse() made hold infinities or NaNs, so the matrix cannot be compared with the"
            " operator. Look for a point where the function is not finite, or take to_dense()."
        )
    sizes = _times(_absolute(matrix), vectors.abs())
    allowed = _ALLOWED * torch.finfo(precision).eps * sizes
    gap = (expected - found).abs()
    if bool((gap <= allowed).all()):
        return None
    noise = (multiply(FACTOR * vectors) / FACTOR - expected).abs().amax(0)
    noise += (_times(again(), vectors) / FACTOR - found).abs().amax(0)
    # One row may round by luck as it did before; half of the rows do not. Rows differ in size.
    is_there = (sizes > 0).all(0)
    typical = (noise[is_there] / sizes[:, is_there].amin(0)).median() if bool(is_there.any()) else noise.new_zeros(())
    allowed += _ALLOWED * torch.maximum(noise, typical * sizes)
    excess = gap - allowed
    if bool((excess <= 0).all()):
        return None
    worst = int(excess.argmax())
    row = worst % excess.shape[1]
    return Difference(row, float(found.flatten()[worst]), float(expected.flatten()[worst]))


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Products with vectors that stand one a row: one by one, since PyTorch is slow at few columns."""
    return torch.stack([matrix @ vector for vector in vectors])


def _absolute(matrix: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(
        matrix.crow_indices(), matrix.col_indices(), matrix.values().abs(), matrix.shape, check_invariants=False
    )
