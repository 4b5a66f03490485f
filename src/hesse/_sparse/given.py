"""Patterns as people give them: sparse matrices, truth values and lists of entries, as rows of column indices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = np.ndarray[Any, Any]

Pattern: TypeAlias = "csr_array[Any, tuple[int, int]]"
"""Truth values in compressed rows with ascending columns; each stored entry belongs to the pattern."""

_KINDS = (
    "a SciPy sparse matrix, a sparse tensor, a dense matrix of truth values, or rows and columns of entries as whole"
    " numbers of shape (2, k)"
)


def given_pattern(pattern: Any, shape: tuple[int, int], *, symmetric: bool, name: str = "to_sparse") -> Pattern:
    """The pattern of a matrix of this shape, or one sentence that says what does not fit.

    Args:
        pattern: a SciPy sparse matrix or array; a sparse tensor; a dense matrix of truth values, as a tensor or NumPy
            array; or rows and columns of entries as whole numbers, of shape (2, k), such as the edges of a graph. For a
            symmetric matrix such a list is completed by its mirror image and the diagonal. Entries that are stored as
            zeros belong to the pattern.
        shape: of the matrix.
        symmetric: whether the matrix is, so that the pattern must be.
        name: of the entry that the pattern was given to.

    Raises:
        TypeError: ``pattern`` is none of these.
        ValueError: it has another shape, an entry outside the matrix, or an entry without its mirror image.
    """
    found = _rows(_stored(pattern, shape, symmetric, name))
    if found.shape != shape:
        raise ValueError(f"The pattern given to {name} should have shape {shape} but has {found.shape}.")
    if symmetric:
        _require_symmetric(found, name)
    return found


def entries_of(matrix: Tensor) -> tuple[Array, Array, Array]:
    """Values, columns and starts of rows of a sparse tensor in compressed rows, as NumPy's arrays."""
    parts = [part.detach().cpu().numpy() for part in (matrix.values(), matrix.col_indices(), matrix.crow_indices())]
    return parts[0], parts[1], parts[2]


def _stored(pattern: Any, shape: tuple[int, int], symmetric: bool, name: str) -> Any:
    """The stored entries as a SciPy matrix."""
    if scipy.sparse.issparse(pattern):
        matrix: Any = pattern
        if matrix.ndim != 2:
            raise ValueError(f"The pattern given to {name} should have shape {shape} but has {matrix.shape}.")
        return matrix
    if isinstance(pattern, Tensor) and pattern.layout != torch.strided:
        return _from_sparse_tensor(pattern.detach(), shape, name)
    if isinstance(pattern, Tensor):
        pattern = pattern.detach().cpu().numpy()
    if isinstance(pattern, np.ndarray) and pattern.ndim == 2:
        if pattern.dtype == bool:
            return scipy.sparse.csr_array(pattern)
        if pattern.dtype.kind in "iu" and pattern.shape[0] == 2:
            return _from_entries(pattern, shape, symmetric, name)
    what = f"{pattern.dtype} of shape {pattern.shape}" if isinstance(pattern, np.ndarray) else f"{type(pattern)}"
    raise TypeError(f"The pattern given to {name} should be {_KINDS}, but is {what}. Of a matrix, give matrix != 0.")


def _from_sparse_tensor(pattern: Tensor, shape: tuple[int, int], name: str) -> Any:
    if pattern.dim() != 2 or (pattern.layout == torch.sparse_coo and pattern.sparse_dim() != 2):
        raise ValueError(f"The pattern given to {name} should have shape {shape} but has {tuple(pattern.shape)}.")
    size = (pattern.shape[0], pattern.shape[1])
    if pattern.layout == torch.sparse_csr:
        return scipy.sparse.csr_array(entries_of(pattern), shape=size)
    rows, columns = pattern.to_sparse(layout=torch.sparse_coo).coalesce().indices().cpu().numpy()
    return scipy.sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), shape=size)


def _from_entries(entries: Array, shape: tuple[int, int], symmetric: bool, name: str) -> Any:
    rows, columns = entries.astype(np.int64)
    for what, indices, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if len(indices) and not (indices.min() >= 0 and indices.max() < size):
            raise ValueError(
                f"The {what} of the pattern given to {name} should be from 0 to {size - 1} but go from"
                f" {indices.min()} to {indices.max()}."
            )
    if symmetric:
        diagonal = np.arange(shape[0])
        rows, columns = np.concatenate([rows, columns, diagonal]), np.concatenate([columns, rows, diagonal])
    return scipy.sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), shape=shape)


def _rows(stored: Any) -> Pattern:
    """The entries in compressed rows, sorted and each once; the given matrix stays as it is."""
    rows = scipy.sparse.csr_array(stored)
    # One width of indices for all loops, and the narrow one where it is wide enough.
    width = np.int32 if max(*rows.shape, rows.nnz) < 2**31 else np.int64
    columns, starts = rows.indices.astype(width, copy=False), rows.indptr.astype(width, copy=False)
    found: Pattern = scipy.sparse.csr_array((np.ones(rows.nnz, bool), columns, starts), shape=rows.shape)
    if not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    return found


def _require_symmetric(pattern: Pattern, name: str) -> None:
    mirrored = pattern.T.tocsr()
    if np.array_equal(mirrored.indptr, pattern.indptr) and np.array_equal(mirrored.indices, pattern.indices):
        return
    rows, columns = (pattern.astype(np.int8) - mirrored.astype(np.int8) > 0).nonzero()
    raise ValueError(
        f"The pattern given to {name} should be symmetric but holds ({rows[0]}, {columns[0]}) without"
        f" ({columns[0]}, {rows[0]}). Give pattern + pattern.T."
    )
