"""``factorize``: the inverse of a sparse matrix by its triangular factors, as preconditioner and for determinants."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from hesse._base.errors import MemoryBudgetError
from hesse._operators.operator import Operator
from hesse._operators.scipy import is_symmetric
from hesse._sparse.to_scipy import to_scipy


class Factorization(Operator):
    """The inverse of a sparse symmetric matrix, by SuperLU; made by ``factorize``. Products solve with the factors.

    Attributes:
        positive_semidefinite: whether the matrix is positive definite, as the signs of all pivots show.
    """

    symmetric = True
    # Of constants.
    differentiable = True

    def __init__(self, factors: Any, pivots: np.ndarray[Any, Any] | None, device: torch.device) -> None:
        self._factors = factors
        self._pivots = pivots
        self.positive_semidefinite = pivots is not None
        self.shape = (factors.shape[0], factors.shape[1])
        self.dtype = torch.float32 if factors.L.dtype == np.float32 else torch.float64
        self.device = device

    def matmat(self, V: Tensor) -> Tensor:
        """A⁻¹·V, on the CPU."""
        columns = np.asfortranarray(V.detach().cpu().numpy())
        return torch.from_numpy(self._factors.solve(columns)).to(self.device)

    @property
    def logdet(self) -> float:
        """The logarithm of the determinant of the matrix, which is positive definite.

        Raises:
            ValueError: a pivot is not positive, so the matrix is not positive definite.
        """
        if self._pivots is None:
            raise ValueError(
                "logdet needs a positive definite matrix but this one is not. Add a shift to its diagonal."
            )
        return float(np.log(self._pivots.astype(np.float64)).sum())


def factorize(matrix: Any) -> Factorization:
    r"""The inverse of a sparse symmetric matrix as an operator, :math:`A^{-1}`, by its sparse LU factors.

    ``factorize(S) @ b`` solves :math:`A x = b` to the rounding of the factors; as ``preconditioner`` of ``hesse.solve``
    it serves matrices near A as well, and the solution has a true residual. A positive definite matrix is factorized
    with pivots on the diagonal, which show that it is one; another matrix with partial pivoting.

    Args:
        matrix: what ``to_sparse()`` returns, another sparse tensor, or a SciPy sparse matrix; (n, n), symmetric.

    Returns:
        An operator with ``logdet``, the exact logarithm of the determinant of a positive definite matrix.

    Raises:
        TypeError: ``matrix`` is not sparse.
        ValueError: it is not square, symmetric, real and finite, or is singular.
        MemoryBudgetError: the factors do not fit into the memory.

    Source: Li, "An overview of SuperLU", ACM Transactions on Mathematical Software 31 (2005).

    Example:
        >>> import torch, hesse
        >>> F = hesse.factorize(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).to_sparse())
        >>> F @ torch.tensor([3.0, 3.0]), round(F.logdet, 4)
        (tensor([1., 1.]), 1.0986)
    """
    device = matrix.device if isinstance(matrix, Tensor) else torch.device("cpu")
    columns = _columns(matrix)
    factors, pivots = _on_the_diagonal(columns)
    if pivots is None:
        del factors
        factors = _factors(columns)
        if factors is None:
            raise ValueError("The matrix given to factorize is singular. Add a shift to its diagonal.")
    return Factorization(factors, pivots, device)


def _columns(matrix: Any) -> Any:
    """The matrix in compressed columns, or one sentence that says why it cannot be factorized."""
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        matrix = to_scipy(matrix)
    if not scipy.sparse.issparse(matrix):
        raise TypeError(
            f"factorize takes a sparse tensor or a SciPy sparse matrix but got {type(matrix)}. Of an operator, give"
            " to_sparse()."
        )
    stored: Any = matrix
    m, n = stored.shape
    if m != n or stored.dtype.kind not in "biuf" or not np.isfinite(stored.data).all() or not is_symmetric(stored):
        raise ValueError(
            "The matrix given to factorize should be square, real, finite and symmetric, but this one of shape"
            f" {stored.shape} and dtype {stored.dtype} is not."
        )
    return scipy.sparse.csc_array(stored, dtype=np.float32 if stored.dtype == np.float32 else np.float64)


def _on_the_diagonal(columns: Any) -> tuple[Any, np.ndarray[Any, Any] | None]:
    """Factors with all pivots on the diagonal, and the pivots; None where one is not positive.

    Then A = L D Lᵀ, and the signs of D are those of the eigenvalues (Sylvester's law of inertia).
    """
    factors = _factors(columns, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    if factors is None or not np.array_equal(factors.perm_r, factors.perm_c):
        return None, None
    pivots = factors.U.diagonal()
    return (factors, pivots) if bool((pivots > 0).all()) else (None, None)


def _factors(columns: Any, **how: Any) -> Any:
    """SuperLU's factors; None of a singular matrix."""
    try:
        return scipy.sparse.linalg.splu(columns, **how)
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        return None
    except MemoryError as error:
        raise MemoryBudgetError(
            f"The factors of the sparse matrix of shape {columns.shape} do not fit into the memory. Use hesse.solve"
            " with hesse.jacobi, which needs none."
        ) from error
