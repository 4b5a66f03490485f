"""What a linear map is turned into by its products: dense matrices, rows, SciPy's operators; and NumPy's vectors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks
from hesse._linearize.unit_vectors import UnitVectors
from hesse._operators.linear_map import LinearMap

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator

Indices = Sequence[int] | Tensor | slice
"""Which rows."""

Array = np.ndarray[Any, Any]

# So many columns are multiplied at a time.
_WIDTH = 64


def to_dense(A: LinearMap) -> Tensor:
    """The matrix (m, n), one product for each column (each row, where there are fewer)."""
    A._require_whole("to_dense()")
    m, n = A.shape
    if m < n and not A.symmetric:
        return rows(A, slice(None))
    # Products are written as rows, so that a chunk of them is contiguous.
    columns = torch.empty(n, m, dtype=A.dtype, device=A.device)
    units = UnitVectors(n, A.dtype, A.device)
    for start in range(0, n, _WIDTH):
        columns[start : start + _WIDTH] = A.matmat(units[start : start + _WIDTH].mT).mT
    return columns.mT


def rows(A: LinearMap, indices: Indices) -> Tensor:
    """Some rows of the matrix, (k, n), one product each."""
    A._require_whole("rows()")
    m, n = A.shape
    chosen = row_numbers(indices, m)
    found = torch.empty(len(chosen), n, dtype=A.dtype, device=A.device)
    units = UnitVectors(m, A.dtype, A.device, chosen)
    for start in range(0, len(chosen), _WIDTH):
        found[start : start + _WIDTH] = A.rmatmat(units[start : start + _WIDTH].mT).mT
    return found


def row_numbers(indices: Indices, size: int) -> list[int]:
    """Indices of rows as numbers from 0 to ``size``, or one sentence."""
    if isinstance(indices, slice):
        return list(range(size))[indices]
    if isinstance(indices, Tensor):
        if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
            raise TypeError(f"Rows are asked for by whole numbers but got a tensor of {indices.dtype}.")
        indices = indices.tolist()
    elif any(isinstance(index, bool) for index in indices):
        raise TypeError("Rows are asked for by whole numbers but got truth values.")
    try:
        found = [operator.index(index) for index in indices]
    except TypeError as error:
        raise TypeError(f"Rows are asked for by whole numbers but got {checks.shown(indices)}.") from error
    outside = next((index for index in found if not -size <= index < size), None)
    if outside is not None:
        raise IndexError(f"Row {outside} was asked of a matrix that has {size}.")
    return [index % size for index in found]


def to_scipy(A: LinearMap) -> ScipyOperator:
    """The map as SciPy's ``LinearOperator``, which takes and gives NumPy vectors of its dtype."""
    import scipy.sparse.linalg

    A._require_whole("to_scipy()")

    def apply(product: Callable[[Tensor], Tensor], V: Array) -> Array:
        columns = to_tensor(A, V)
        result = to_numpy(product(columns if columns.dim() == 2 else columns.unsqueeze(-1)))
        return result.reshape(len(result), *V.shape[1:])

    return scipy.sparse.linalg.LinearOperator(
        A.shape,
        dtype=_numpy_dtype(A),
        matvec=lambda v: apply(A.matmat, v),
        rmatvec=lambda u: apply(A.rmatmat, u),
        matmat=lambda V: apply(A.matmat, V),
        rmatmat=lambda U: apply(A.rmatmat, U),
    )


def to_tensor(A: LinearMap, array: Array) -> Tensor:
    """A NumPy array in the map's dtype and on its device, or one sentence."""
    if array.dtype.kind == "c":
        raise TypeError(f"The operator is real but the vector has dtype {array.dtype}. Multiply its parts one by one.")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"A NumPy vector of the operator should hold numbers but has dtype {array.dtype}.")
    # Copied: PyTorch shares no read-only memory, and no byte order but the machine's.
    return torch.from_numpy(np.array(array, dtype=_numpy_dtype(A), order="C")).to(A.device)


def to_numpy(tensor: Tensor) -> Array:
    """The tensor's values as a NumPy array."""
    found: Array = tensor.detach().cpu().numpy()
    return found


def _numpy_dtype(A: LinearMap) -> Any:
    return torch.empty(0, dtype=A.dtype, device="cpu").numpy().dtype
