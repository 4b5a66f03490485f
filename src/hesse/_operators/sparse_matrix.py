"""A sparse tensor as an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._linearize.guard import Guard
from hesse._operators.operator import Operator
from hesse._operators.scipy import is_symmetric
from hesse._sparse.to_scipy import to_scipy


class SparseMatrix(Operator):
    """A sparse tensor (m, n) of any layout as an operator.

    Example:
        >>> import torch, hesse
        >>> hesse.as_operator(torch.eye(2).to_sparse()) @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
    """

    # Of constants.
    differentiable = True

    def __init__(self, matrix: Tensor) -> None:
        if matrix.dim() != 2 or not matrix.dtype.is_floating_point or matrix.requires_grad:
            raise ValueError(
                "A sparse matrix as an operator should be a real floating-point tensor of two dimensions that requires"
                f" no gradients, but has shape {tuple(matrix.shape)} and dtype {matrix.dtype}, and requires_grad is"
                f" {matrix.requires_grad}."
            )
        self._guard = Guard("operator", [("The matrix", matrix)])
        self._matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.dtype, self.device = self._matrix.dtype, matrix.device
        self.symmetric = is_symmetric(to_scipy(self._matrix))

    def matmat(self, V: Tensor) -> Tensor:
        """A·V."""
        self._guard.check()
        return self._matrix @ V

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U."""
        self._guard.check()
        return self._matrix @ U if self.symmetric else self._matrix.t() @ U

    def to_dense(self) -> Tensor:
        """The matrix."""
        return self._matrix.to_dense()
