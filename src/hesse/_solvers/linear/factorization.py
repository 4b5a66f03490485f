"""``factorize``: the inverse of a sparse matrix by its triangular factors, as preconditioner and for determinants."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

from hesse._base.errors import MemoryBudgetError
from hesse._operators import sparse
from hesse._operators.operator import Operator
from hesse._operators.scipy import is_symmetric
from hesse._sparse.to_scipy import to_scipy

Library = Literal["CHOLMOD", "SuperLU"]

# A pivot that small, in units of eps times what was added up for it, is rounding.
ROUNDING = 100


class Factors(NamedTuple):
    """Factors of a sparse matrix.

    Attributes:
        library: whose they are.
        solve: the solutions for right-hand sides as columns.
        pivots: where the matrix is positive definite, the diagonal D of A = P L D Lᵀ Pᵀ; otherwise None.
    """

    library: Library
    solve: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
    pivots: np.ndarray[Any, Any] | None


class Factorization(Operator):
    """The inverse of a sparse symmetric matrix; made by ``factorize``. Products solve with the factors.

    Attributes:
        library: ``"CHOLMOD"`` or ``"SuperLU"``, which made the factors.
        positive_semidefinite: whether the matrix is positive definite, as the signs of all pivots show.
    """

    symmetric = True
    # Of constants.
    differentiable = True

    def __init__(self, factors: Factors, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.library = factors.library
        self._factors = factors
        self.positive_semidefinite = factors.pivots is not None
        self.shape = (size, size)
        self.dtype, self.device = dtype, device

    def matmat(self, V: Tensor) -> Tensor:
        """A⁻¹·V, on the CPU."""
        columns = np.asfortranarray(V.detach().cpu().numpy())
        return torch.from_numpy(self._factors.solve(columns)).to(self.device, self.dtype)

    @property
    def logdet(self) -> float:
        """The logarithm of the determinant of the matrix, which is positive definite.

        Raises:
            ValueError: a pivot is not positive, so the matrix is not positive definite.
        """
        pivots = self._factors.pivots
        if pivots is None:
            raise ValueError(
                "logdet needs a positive definite matrix but this one is not. Add a shift to its diagonal."
            )
        return float(np.log(pivots.astype(np.float64)).sum())


def factorize(matrix: Any) -> Factorization:
    r"""The inverse of a sparse symmetric matrix as an operator, :math:`A^{-1}`, by its triangular factors.

    ``factorize(S) @ b`` solves :math:`A x = b` to the rounding of the factors; as ``preconditioner`` of ``hesse.solve``
    it serves matrices near A as well, and the solution has a true residual. A positive definite matrix is factorized
    with pivots on the diagonal, which show that it is one: by CHOLMOD where scikit-sparse is installed, by SuperLU
    otherwise. Another matrix is factorized by SuperLU with partial pivoting.

    Args:
        matrix: what ``to_sparse()`` returns, another sparse tensor, a SciPy sparse matrix, or an operator whose
            ``to_sparse()`` is meant; (n, n), symmetric.

    Returns:
        An operator with ``logdet``, the exact logarithm of the determinant of a positive definite matrix, and
        ``library``, the name of the library that made the factors.

    Raises:
        TypeError: ``matrix`` is not sparse, or an operator that has no pattern.
        ValueError: it is not square, symmetric, real and finite, or is singular.
        MemoryBudgetError: the factors do not fit into the memory.

    Source: Li, "An overview of SuperLU", ACM Transactions on Mathematical Software 31 (2005); Chen, Davis, Hager and
    Rajamanickam, "Algorithm 887: CHOLMOD", ACM Transactions on Mathematical Software 35 (2008).

    Example:
        >>> import torch, hesse
        >>> F = hesse.factorize(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).to_sparse())
        >>> F @ torch.tensor([3.0, 3.0]), round(F.logdet, 4)
        (tensor([1., 1.]), 1.0986)
    """
    device = matrix.device if isinstance(matrix, Tensor | Operator) else torch.device("cpu")
    columns = _columns(matrix)
    factors = positive_factors(columns) or _with_pivoting(columns)
    if factors is None:
        raise ValueError("The matrix given to factorize is singular. Add a shift to its diagonal.")
    dtype = torch.float32 if columns.dtype == np.float32 else torch.float64
    return Factorization(factors, columns.shape[0], dtype, device)


def _columns(matrix: Any) -> Any:
    """The matrix in compressed columns, or one sentence that says why it cannot be factorized."""
    if isinstance(matrix, Operator):
        matrix._require_whole("factorize()")
        sparse.planned(matrix, None, "factorize")
        matrix = matrix.to_sparse()
    if isinstance(matrix, Tensor) and matrix.layout != torch.strided:
        matrix = to_scipy(matrix)
    if not scipy.sparse.issparse(matrix):
        raise TypeError(
            f"factorize takes an operator, a sparse tensor or a SciPy sparse matrix but got {type(matrix)}. Give a"
            " dense tensor as matrix.to_sparse()."
        )
    stored: Any = matrix
    m, n = stored.shape
    if m != n or stored.dtype.kind not in "biuf" or not np.isfinite(stored.data).all() or not is_symmetric(stored):
        raise ValueError(
            "The matrix given to factorize should be square, real, finite and symmetric, but this one of shape"
            f" {stored.shape} and dtype {stored.dtype} is not."
        )
    return scipy.sparse.csc_array(stored, dtype=np.float32 if stored.dtype == np.float32 else np.float64)


def positive_factors(columns: Any) -> Factors | None:
    """Factors of a symmetric matrix in compressed columns; None where it is not positive definite."""
    return _by_cholmod(columns) or _on_the_diagonal(columns)


def _by_cholmod(columns: Any) -> Factors | None:
    """CHOLMOD's factors, in float64; None where it is not installed, or the matrix is not positive definite."""
    try:
        cholmod = importlib.import_module("sksparse.cholmod")
        cholesky = cholmod.cholesky
    except (ImportError, AttributeError):
        return None
    try:
        factor = cholesky(columns.astype(np.float64))
        pivots = factor.D()
    except cholmod.CholmodNotPositiveDefiniteError:
        return None
    except (MemoryError, cholmod.CholmodOutOfMemoryError, cholmod.CholmodTooLargeError) as error:
        raise _too_large(columns) from error
    # Without blocks of columns its factors are L D Lᵀ, which an indefinite matrix may have as well.
    is_positive = bool((pivots > 0).all()) and not _is_singular(pivots, columns.diagonal()[factor.P()])
    return Factors("CHOLMOD", factor, pivots) if is_positive else None


def _on_the_diagonal(columns: Any) -> Factors | None:
    """Factors with all pivots on the diagonal; None where one is not positive.

    Then A = L D Lᵀ, and the signs of D are those of the eigenvalues (Sylvester's law of inertia).
    """
    factors = _by_superlu(columns, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    if factors is None or not np.array_equal(factors.perm_r, factors.perm_c):
        return None
    pivots = factors.U.diagonal()
    return Factors("SuperLU", factors.solve, pivots) if bool((pivots > 0).all()) else None


def _with_pivoting(columns: Any) -> Factors | None:
    """Factors with the largest pivots of their columns; None where the matrix is singular."""
    factors = _by_superlu(columns)
    return None if factors is None else Factors("SuperLU", factors.solve, None)


def _by_superlu(columns: Any, **how: Any) -> Any:
    """SuperLU's factors; None of a matrix that is singular, but for rounding."""
    try:
        factors = scipy.sparse.linalg.splu(columns, **how)
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        return None
    except MemoryError as error:
        raise _too_large(columns) from error
    sizes = abs(factors.L).multiply(abs(factors.U).T).sum(axis=1)
    return None if _is_singular(factors.U.diagonal(), sizes) else factors


def _is_singular(pivots: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> bool:
    r"""Whether a pivot may be zero: :math:`u_{jj} = a_{jj} - \sum_{k<j} l_{jk} u_{kj}` rounds as the sum of its terms.

    Where A = L D Lᵀ is positive definite, the sum of absolute terms is the entry of A itself.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002, theorem 9.3.
    """
    return bool((abs(pivots) <= ROUNDING * np.finfo(pivots.dtype).eps * np.ravel(sizes)).any())


def _too_large(columns: Any) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"The factors of the sparse matrix of shape {columns.shape} do not fit into the memory. Use hesse.solve with"
        " hesse.jacobi, which needs none."
    )
