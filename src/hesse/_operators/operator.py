"""``Operator``: a matrix known by its products, as people write with it; and sums, products and transposes."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any, NoReturn, Self, overload

import numpy as np
from torch import Tensor

from hesse._base import trees
from hesse._operators import algebra, conversions, sparse
from hesse._operators.conversions import Array, Indices
from hesse._operators.linear_map import LinearMap
from hesse._sparse.plan import SparsePlan

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator


class Operator(LinearMap):
    """A matrix known by its products. A subclass gives ``matmat``, ``shape``, ``dtype`` and ``device``.

    Attributes:
        shape: (m, n).
        dtype: real dtype of flat vectors, at least float32.
        device: device of flat vectors.
        symmetric: whether the matrix equals its transpose; then ``rmatmat`` is ``matmat``.
        positive_semidefinite: whether no eigenvalue is negative, where that is known.
        differentiable: whether products carry derivatives by all that the operator closes over.
        domain, range: the structured vectors it takes and gives, where it knows of any.
        ndim: 2, as of any matrix.
    """

    ndim = 2
    _sparse_plan: SparsePlan | None = None
    # NumPy leaves array @ operator and array * operator to the operator.
    __array_ufunc__ = None

    @overload
    def __matmul__(self, v: Operator) -> Operator: ...
    @overload
    def __matmul__(self, v: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, v: Array) -> Array: ...
    @overload
    def __matmul__(self, v: object) -> Any: ...
    def __matmul__(self, v: Any) -> Any:
        """A·v for a flat vector (n,), a matrix of columns (n, k), or a vector structured like ``domain``.

        NumPy arrays give NumPy arrays, and an operator gives the product of the two.
        """
        # The common case comes first, and calls no other Python function: a flat vector that needs no cast.
        if (
            type(v) is Tensor
            and v.shape == (self.shape[1],)
            and v.dtype == self.dtype
            and v.device == self.device
            and self._flat_stays_flat
        ):
            return self._matvec(v)
        return self._times(v)

    def _times(self, v: Any) -> Any:
        if isinstance(v, Operator):
            return Product(self, v)
        if isinstance(v, np.ndarray):
            return trees.map_tensors(conversions.to_numpy, self @ conversions.to_tensor(self, v))
        domain, range_ = self.domain, self.range
        if domain is not None and range_ is not None and (not isinstance(v, Tensor) or domain.holds(v)):
            return range_.spec.rebuild(self.multiply_leaves(domain.check(v)))
        if not isinstance(v, Tensor):
            raise TypeError(
                f"{type(self).__name__} multiplies tensors of shape ({self.shape[1]},) or ({self.shape[1]}, k)"
                f" but got {type(v)}. Wrap a matrix with hesse.as_operator."
            )
        if v.dim() == 1:
            return self._matvec(self.check_columns(v.unsqueeze(-1)).squeeze(-1))
        return self.matmat(self.check_columns(v))

    @overload
    def __rmatmul__(self, u: Tensor) -> Tensor: ...
    @overload
    def __rmatmul__(self, u: Array) -> Array: ...
    def __rmatmul__(self, u: Any) -> Any:
        """u·A for a flat vector (m,) or a matrix of rows (k, m)."""
        if not isinstance(u, Tensor | np.ndarray) or u.ndim not in (1, 2):
            found = f"shape {tuple(u.shape)}" if hasattr(u, "shape") else f"{type(u)}"
            raise TypeError(
                f"u @ {type(self).__name__} takes a vector of shape ({self.shape[0]},) or rows (k, {self.shape[0]}) but"
                f" got {found}. Wrap a matrix with hesse.as_operator."
            )
        return self.T @ u if u.ndim == 1 else (self.T @ u.T).T

    def matvec(self, v: Any) -> Any:
        """A·v, as ``A @ v``: the name that SciPy's operators have for it."""
        return self @ v

    def rmatvec(self, u: Any) -> Any:
        """Aᵀ·u, as ``A.T @ u``."""
        return self.T @ u

    @property
    def T(self) -> Operator:
        """The transpose."""
        return self if self.symmetric else Transpose(self)

    @property
    def mT(self) -> Operator:
        """The transpose, under the name that PyTorch's matrices have for it."""
        return self.T

    def shift(self, s: float) -> Operator:
        """A + s·identity."""
        return Sum((1.0, self), (_number(s), Identity(self)))

    def __add__(self, other: Any) -> Operator:
        _require_operator(other, "+")
        return Sum((1.0, self), (1.0, other))

    def __radd__(self, other: Any) -> Operator:
        # sum() begins with the integer zero.
        return self if type(other) is int and other == 0 else self + other

    def __sub__(self, other: Any) -> Operator:
        _require_operator(other, "-")
        return Sum((1.0, self), (-1.0, other))

    def __rsub__(self, other: Any) -> Operator:
        total: Operator = -self + other
        return total

    def __mul__(self, factor: Any) -> Operator:
        if isinstance(factor, Operator) or (isinstance(factor, Tensor | np.ndarray) and factor.ndim):
            raise TypeError(f"{type(self).__name__} * {type(factor)} is not defined. Use @ for a product.")
        if not _is_number(factor):
            return NotImplemented
        return Sum((_number(factor), self))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Operator:
        return Sum((1 / _number(divisor), self)) if _is_number(divisor) else NotImplemented

    def __neg__(self) -> Operator:
        return Sum((-1.0, self))

    def to_dense(self) -> Tensor:
        """The matrix (m, n), one product for each column (each row, where there are fewer)."""
        return conversions.to_dense(self)

    def to_sparse(self, pattern: Any = None) -> Tensor:
        """The matrix (m, n) as a sparse tensor in compressed rows, from one product for each color of its pattern.

        Columns of one color share no row, or none that matters by symmetry. Two random products compare the matrix with
        the operator. ``at()`` carries pattern and colors on, and ``explain()`` has their number.

        Args:
            pattern: where entries may be: a SciPy sparse matrix; a sparse tensor; a dense matrix of truth values; or
                rows and columns of entries as whole numbers (2, k), which are completed for a symmetric matrix by their
                mirror image and the diagonal. Stored zeros count as entries. Found from the function, of
                a Hessian, a Jacobian and a Gauss-Newton matrix of residuals, when left out.

        Raises:
            TypeError: ``pattern`` is none of these, or the operator cannot find its own.
            ValueError: ``pattern`` has another shape, is not symmetric though the matrix is, or lacks an entry.
            MemoryBudgetError: the sparse matrix does not stay within ``memory``.
            ImportError: numba, of ``hesse[sparse]``, is not installed.

        Source: Gebremedhin, Manne and Pothen, "What color is your Jacobian?", SIAM Review 47 (2005).

        Example:
            >>> import torch, hesse
            >>> H = hesse.Hessian(lambda x: (x[1:] * x[:-1]).sum(), torch.ones(1000))
            >>> S = H.to_sparse()
            >>> S.values().numel(), H.explain().colors
            (1998, 2)
        """
        return sparse.to_sparse(self, pattern)

    def rows(self, indices: Indices) -> Tensor:
        """Some rows of the matrix, (k, n), one product each.

        Args:
            indices: whole numbers, a tensor of them, or a slice; negative ones count from the end.

        Raises:
            IndexError: the matrix has no such row.

        Example:
            >>> import torch, hesse
            >>> H = hesse.Hessian(lambda x: x.prod(), torch.tensor([1.0, 2.0, 3.0]))
            >>> H.rows([0, -1])
            tensor([[0., 3., 2.],
                    [2., 1., 0.]])
        """
        return conversions.rows(self, indices)

    def to_scipy(self) -> ScipyOperator:
        """The operator as SciPy's ``LinearOperator``, for NumPy vectors."""
        return conversions.to_scipy(self)

    def __array__(self, *arguments: Any, **words: Any) -> NoReturn:
        raise TypeError(
            f"A {type(self).__name__} is not an array. Use to_dense() for the matrix, or to_scipy() for SciPy."
        )

    def __copy__(self) -> Self:
        fresh = object.__new__(type(self))
        fresh.__dict__ = vars(self).copy()
        return fresh

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        # What copy.deepcopy and pickle call.
        raise TypeError(
            f"A {type(self).__name__} can be neither pickled nor copied deeply: it keeps an evaluation that belongs to"
            " this process. Make it anew from what it was made of."
        )


class Identity(algebra.Identity, Operator):
    """The identity on the vectors of a square operator.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**2).sum(), torch.ones(2))
        >>> (H + 3 * hesse.Identity(H)) @ torch.ones(2)
        tensor([5., 5.])
    """


class Sum(algebra.Sum, Operator):
    """A weighted sum as an operator."""


class Product(algebra.Product, Operator):
    """A product as an operator."""

    _parts: tuple[Operator, ...]

    @property
    def T(self) -> Operator:
        """The product of the transposes, the last first."""
        return self if self.symmetric else Product(*[part.T for part in reversed(self._parts)])


class Transpose(algebra.Transpose, Operator):
    """A transpose as an operator."""

    _operator: Operator

    @property
    def T(self) -> Operator:
        """The transpose of the transpose: the operator itself."""
        return self._operator


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex()
    return isinstance(value, numbers.Real) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf"
    )


def _number(value: Any) -> float:
    """A real number, also as a tensor or array without dimensions, or one sentence."""
    if not _is_number(value):
        raise TypeError(f"A factor or shift of an operator should be a real number but is {value!r}.")
    if isinstance(value, Tensor) and value.requires_grad:
        raise TypeError(
            "A factor or shift of an operator is a number, and no derivative goes through it, but got a tensor that"
            " requires gradients. Give its value by .item()."
        )
    return float(value)


def _require_operator(other: Any, sign: str) -> None:
    if isinstance(other, Operator):
        return
    if isinstance(other, numbers.Number) or (isinstance(other, Tensor | np.ndarray) and other.ndim == 0):
        raise TypeError(
            f"An operator {sign} the number {other} is ambiguous: in torch it would mean every entry. For a multiple of"
            f" the identity use H.shift({sign if sign == '-' else ''}{other})."
        )
    raise TypeError(f"An operator {sign} {type(other)} is not defined. Wrap a matrix with hesse.as_operator.")
