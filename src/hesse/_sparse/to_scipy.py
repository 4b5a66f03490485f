"""``to_scipy``: sparse tensors for SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import scipy
import torch
from torch import Tensor

from hesse._sparse.given import entries_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def to_scipy(matrix: Tensor) -> csr_array[Any, tuple[int, int]]:
    """A sparse tensor of two dimensions as SciPy's ``csr_array``; on the CPU it shares the values' memory.

    Args:
        matrix: a sparse tensor (m, n) of any layout, such as ``to_sparse()`` returns.

    Raises:
        TypeError: it is no sparse tensor.

    Example:
        >>> import torch, hesse
        >>> hesse.to_scipy(torch.eye(3).to_sparse()).diagonal()
        array([1., 1., 1.], dtype=float32)
    """
    if not isinstance(matrix, Tensor) or matrix.layout == torch.strided or matrix.dim() != 2:
        what = f"shape {tuple(matrix.shape)} and {matrix.layout}" if isinstance(matrix, Tensor) else f"{type(matrix)}"
        raise TypeError(f"to_scipy takes a sparse tensor of two dimensions but got {what}.")
    size = (matrix.shape[0], matrix.shape[1])
    if matrix.layout == torch.sparse_csr:
        values, columns, starts = entries_of(matrix)
        # SciPy drops zeros in place, and the next point's matrix has these indices.
        return scipy.sparse.csr_array((values, columns.copy(), starts.copy()), shape=size)
    entries = matrix.detach().cpu().to_sparse(layout=torch.sparse_coo).coalesce()
    rows, columns = entries.indices().numpy()
    return scipy.sparse.csr_array((entries.values().numpy(), (rows, columns)), shape=size)
