"""Whether a sparse matrix is the whole matrix: random products of both, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._autograd.agreement import FACTOR
from hesse._base.compressed_rows import compressed_rows
from hesse._base.errors import NonFiniteProductError
from hesse._sparse import kernels
from hesse._sparse.compiled import in_threads

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
    r"""A row in which the products with random vectors differ by more than rounding, or None.

    Allowed are a hundred roundings of :math:`\sum_j |a_{ij}| \max_j |v_j|`. Where that is not enough, both sides are
    computed anew with a scaled vector: how far they are from linear tells how they round on the way.

    Args:
        multiply: the operator's product with a vector.
        again: the matrix once more, from seeds times ``FACTOR``.
        matrix: the sparse matrix in compressed rows.
        vectors: two random vectors, one a row, with no entry below a half.
        precision: the dtype that rounds most on the way.

    Raises:
        NonFiniteProductError: a product holds infinities or NaNs.
    """
    products = [multiply(vector) for vector in vectors]
    allowed = _ALLOWED * torch.finfo(precision).eps
    if matrix.device.type == "cpu" and _agree(matrix, vectors, products, allowed / 2):
        return None
    sizes = _sizes(matrix) * vectors.abs().max()
    rounding = allowed * sizes
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
        excess = gap - rounding - _ALLOWED * torch.maximum(noise, typical * sizes)
        row = int(excess.argmax())
        if excess[row] > 0:
            return Difference(row, float(found[row]), float(expected[row]))
    return None


def _agree(matrix: Tensor, vectors: Tensor, products: list[Tensor], allowed: float) -> bool:
    """Whether no product differs by more than rounding: one pass over the entries, with no tensors on the way."""
    arrays = [tensor.numpy() for tensor in (matrix.crow_indices(), matrix.col_indices(), matrix.values())]
    given = tuple([vector.numpy() for vector in vectors])
    expected = tuple([product.detach().contiguous().numpy() for product in products])
    return all(in_threads(kernels.rows_agree, matrix.shape[0], matrix.shape[0], *arrays, given, expected, allowed))


def _sizes(matrix: Tensor) -> Tensor:
    """The sum of each row's absolute values."""
    absolute = compressed_rows(matrix.crow_indices(), matrix.col_indices(), matrix.values().abs(), tuple(matrix.shape))
    return absolute @ absolute.values().new_ones(matrix.shape[1])
