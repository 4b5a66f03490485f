"""A dense symmetric or rectangular matrix as an operator, and ``as_operator`` for whatever is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._linearize.guard import Guard
from hesse._operators.operator import Operator
from hesse._operators.scipy import Scipy


class Dense(Operator):
    """A matrix (m, n) as an operator.

    Args:
        matrix: a real floating-point tensor of shape (m, n).

    Example:
        >>> import torch, hesse
        >>> hesse.as_operator(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) @ torch.tensor([1.0, 0.0])
        tensor([2., 1.])
    """

    differentiable = True

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dim() != 2 or not matrix.dtype.is_floating_point:
            raise ValueError(
                "A matrix as an operator should be a real floating-point tensor of two dimensions but has shape"
                f" {tuple(matrix.shape)} and dtype {matrix.dtype}."
            )
        self._guard = Guard("operator", [("The matrix", matrix)])
        self._matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.dtype, self.device = self._matrix.dtype, matrix.device
        self.symmetric = self.shape[0] == self.shape[1] and torch.equal(self._matrix, self._matrix.mT)

    def matmat(self, V: Tensor) -> Tensor:
        """A·V."""
        self._guard.check()
        return self._matrix @ V

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U."""
        self._guard.check()
        return self._matrix.mT @ U

    def to_dense(self) -> Tensor:
        """The matrix."""
        return self._matrix.clone()


def as_operator(A: Any) -> Operator:
    """``A`` as an operator: an operator, a dense tensor, a NumPy array, or anything SciPy takes for a linear operator.

    Args:
        A: an operator of hesse, a real tensor (m, n), a NumPy array (m, n), a SciPy sparse matrix or a SciPy
            ``LinearOperator``. A SciPy operator counts as symmetric when it says so by ``symmetric = True``,
            a sparse matrix when it equals its transpose.

    Returns:
        An operator with ``shape``, ``dtype``, ``device``, ``matmat``, ``gram``, ``randn`` and ``signs``.

    Raises:
        TypeError: ``A`` is none of these.
        ValueError: ``A`` is a tensor, but no real matrix of two dimensions.

    Example:
        >>> import numpy, hesse
        >>> hesse.as_operator(numpy.eye(3)).shape
        (3, 3)
    """
    if isinstance(A, Operator):
        return A
    if isinstance(A, Tensor):
        return Dense(A)
    return Scipy(A)
