"""Whether a sparse matrix is the whole matrix: random products of both, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR
from hesse._base.compressed_rows import compressed_rows
from hesse._base.errors import NonFiniteProductError

LARGEST = 1.5
"""No entry of a random vector is larger."""

ALLOWED = 100.0
"""How far both may be apart, in roundings of what is added up in a row."""


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
    products: Sequence[Tensor],
    precision: torch.dtype,
) -> Difference | None:
    r"""A row in which the products with random vectors differ by more than rounding, or None.

    Allowed are a hundred roundings of :math:`\sum_j |a_{ij}| \max_j |v_j|`. Where that is not enough, both sides are
    computed anew with a scaled vector: how far they are from linear tells how they round on the way.

    Args:
        multiply: the operator's product with a vector.
        again: the matrix once more, from seeds times ``FACTOR``.
        matrix: the sparse matrix in compressed rows.
        vectors: two random vectors, one a row, with entries between a half and ``LARGEST``.
        products: the operator's with these.
        precision: the dtype that rounds most on the way.

    Raises:
        NonFiniteProductError: a product holds infinities or NaNs.
    """
    sizes = LARGEST * _sizes(matrix)
    rounding = ALLOWED * torch.finfo(precision).eps * sizes
    for vector, expected in zip(vectors, products, strict=True):
        found = matrix @ vector
        gap = (expected - found).abs()
        if bool((gap <= rounding).all()):
            continue
        if not bool(torch.isfinite(gap).all()):
            raise NonFiniteProductError(
                "The products that to_sparse() made hold infinities or NaNs, so the matrix cannot be compared with the"
                " operator. Look for a point where the function is not finite, or take to_dense()."
            )
        noise = (multiply(FACTOR * vector) / FACTOR - expected).abs() + (again() @ vector / FACTOR - found).abs()
        # One row may round by luck as it did before; half of the rows do not. Rows differ in size.
        is_there = sizes > 0
        typical = (noise[is_there] / sizes[is_there]).median() if bool(is_there.any()) else noise.new_zeros(())
        excess = gap - rounding - ALLOWED * torch.maximum(noise, typical * sizes)
        row = int(excess.argmax())
        if excess[row] > 0:
            return Difference(row, float(found[row]), float(expected[row]))
    return None


def _sizes(matrix: Tensor) -> Tensor:
    """The sum of each row's absolute values."""
    absolute = compressed_rows(matrix.crow_indices(), matrix.col_indices(), matrix.values().abs(), tuple(matrix.shape))
    return absolute @ absolute.values().new_ones(matrix.shape[1])
