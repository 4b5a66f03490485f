"""A dense or sparse matrix as an operator, and ``as_operator`` for whatever is one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from hesse._base import checks, precision
from hesse._linearize.guard import Guard
from hesse._operators.operator import Operator
from hesse._operators.scipy import Scipy, is_matrix, is_symmetric
from hesse._sparse.to_scipy import to_scipy


class Dense(Operator):
    """A matrix (m, n) as an operator.

    Args:
        matrix: a real floating-point tensor of shape (m, n).

    Example:
        >>> import torch, hesse
        >>> hesse.as_operator(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) @ torch.tensor([1.0, 0.0])
        tensor([2., 1.])
    """

    # Of constants.
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
        self.symmetric = self._is_symmetric()

    def _is_symmetric(self) -> bool:
        return torch.equal(self._matrix, self._matrix.mT)

    def matmat(self, V: Tensor) -> Tensor:
        """A·V."""
        self._guard.check()
        with precision.Exact():
            return self._matrix @ V

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U."""
        self._guard.check()
        with precision.Exact():
            return (self._matrix if self.symmetric else self._matrix.t()) @ U

    def to_dense(self) -> Tensor:
        """The matrix."""
        return self._matrix.clone()


class SparseMatrix(Dense):
    """A sparse tensor (m, n) of any layout as an operator.

    Example:
        >>> import torch, hesse
        >>> hesse.as_operator(torch.eye(2).to_sparse()) @ torch.tensor([1.0, 2.0])
        tensor([1., 2.])
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.requires_grad:
            raise ValueError(
                "A sparse matrix as an operator should require no gradients but its requires_grad is True. Give its"
                " detach()."
            )
        super().__init__(matrix)

    def _is_symmetric(self) -> bool:
        return is_symmetric(to_scipy(self._matrix))

    def to_dense(self) -> Tensor:
        """The matrix."""
        return self._matrix.to_dense()


def as_operator(A: Any, *, symmetric: bool = False) -> Operator:
    """``A`` as an operator: an operator, a tensor, a NumPy array, or anything SciPy takes for a linear operator.

    Args:
        A: an operator of hesse, a real tensor (m, n), also a sparse one, a NumPy array (m, n), a SciPy sparse matrix or
            a SciPy ``LinearOperator``. It counts as symmetric where its entries are, or where it says so by
            ``symmetric = True``.
        symmetric: True where you know that A is symmetric and A does not say so, as a ``LinearOperator`` or a matrix
            that is symmetric but for rounding. Only the entries of a matrix are compared.

    Returns:
        An operator with ``shape``, ``dtype``, ``device``, ``matmat``, ``gram``, ``randn`` and ``signs``.

    Raises:
        TypeError: ``A`` is none of these.
        ValueError: ``A`` is a tensor, but no real matrix of two dimensions; or with ``symmetric=True``, it is not
            square, or its entries differ by more than rounding.

    Example:
        >>> import numpy, scipy.sparse.linalg, hesse
        >>> hesse.as_operator(numpy.eye(3)).shape
        (3, 3)
        >>> theirs = scipy.sparse.linalg.aslinearoperator(numpy.diag([1.0, 2.0, 3.0]))
        >>> hesse.eigsh(hesse.as_operator(theirs, symmetric=True), k=1, rng=0).values.round(decimals=6)
        tensor([3.], dtype=torch.float64)
    """
    checks.flags("as_operator", symmetric=symmetric)
    if isinstance(A, Tensor):
        operator: Operator = Dense(A) if A.layout == torch.strided else SparseMatrix(A)
    else:
        operator = A if isinstance(A, Operator) else Scipy(A)
    return _symmetric(operator, A) if symmetric and not operator.symmetric else operator


def _symmetric(operator: Operator, A: Any) -> Operator:
    """The same operator, taken for symmetric."""
    m, n = operator.shape
    if m != n:
        raise ValueError(f"as_operator(symmetric=True) needs a square operator but got one of shape {operator.shape}.")
    if isinstance(A, Tensor) and A.layout != torch.strided:
        A = to_scipy(A)
    if isinstance(A, Tensor) or is_matrix(A):
        gap, largest = float(abs(1.0 * A - 1.0 * A.T).max()), float(abs(A).max())
        if gap > torch.finfo(operator.dtype).eps ** 0.5 * largest:
            raise ValueError(
                f"as_operator(symmetric=True) got a matrix whose entries differ from those of its transpose by up to"
                f" {gap:.3g}. Give its symmetric part, (A + A.T) / 2."
            )
    # The caller's own operator stays what it is.
    taken = copy.copy(operator)
    taken.symmetric = True
    return taken
