"""NumPy arrays, SciPy's sparse matrices and its linear operators as operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from hesse._operators.operator import Operator


class Scipy(Operator):
    """A NumPy array, a SciPy sparse matrix or a SciPy ``LinearOperator`` as an operator, on the CPU."""

    device = torch.device("cpu")
    # Of constants.
    differentiable = True

    def __init__(self, A: Any) -> None:
        if is_matrix(A) and A.ndim != 2:
            raise ValueError(f"A matrix as an operator should have two dimensions but has shape {A.shape}.")
        try:
            self._operator = scipy.sparse.linalg.aslinearoperator(A)
        except TypeError as error:
            raise TypeError(
                "An operator should be one of hesse's, a tensor, a NumPy array, a SciPy sparse matrix or a SciPy"
                f" LinearOperator but got {type(A)}."
            ) from error
        self.shape = (int(self._operator.shape[0]), int(self._operator.shape[1]))
        numpy_dtype = np.promote_types(self._operator.dtype, np.float32)
        if numpy_dtype.kind != "f":
            raise TypeError(f"An operator should be real but this one has dtype {self._operator.dtype}.")
        self.dtype = torch.float32 if numpy_dtype == np.float32 else torch.float64
        self.symmetric = is_symmetric(A)

    def matmat(self, V: Tensor) -> Tensor:
        """A·V."""
        return self._tensor(self._operator.matmat(V.detach().numpy()))

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U."""
        return self._tensor(self._operator.rmatmat(U.detach().numpy()))

    def _tensor(self, product: Any) -> Tensor:
        # A long double has no tensor.
        numpy_dtype = np.float32 if self.dtype == torch.float32 else np.float64
        return torch.from_numpy(np.ascontiguousarray(product, dtype=numpy_dtype))


def is_symmetric(A: Any) -> bool:
    """Whether the entries are those of the transpose, or A says that it is symmetric."""
    if is_matrix(A):
        return A.shape[0] == A.shape[1] and bool((A != A.T).sum() == 0)
    return bool(getattr(A, "symmetric", False))


def is_matrix(A: Any) -> bool:
    """Whether the entries are there to be looked at."""
    return isinstance(A, np.ndarray) or bool(scipy.sparse.issparse(A))
