"""The operator protocol: all that a question (an eigenvalue, a trace, a solve) may know of a matrix."""

from __future__ import annotations

import abc
import numbers
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hesse.engines.unit_vectors import UnitVectors
from hesse.operators import probes
from hesse.operators.inner_products import inner_products
from hesse.space import Space

Places = Sequence[int] | Tensor | slice
"""Which rows."""

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyOperator


class Operator(abc.ABC):
    """A linear map of flat vectors, known by its products.

    Attributes:
        shape: (m, n).
        dtype: real dtype of flat vectors, at least float32.
        device: device of flat vectors.
        symmetric: whether the matrix equals its transpose; then ``rmatmat`` is ``matmat``.
        positive_semidefinite: whether no eigenvalue is negative, where that is known.
        differentiable: whether products carry derivatives by all that the operator closes over.
        domain, range: the structured vectors it takes and gives, where it knows of any.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    symmetric: bool = False
    positive_semidefinite: bool = False
    differentiable: bool = False
    domain: Space | None = None
    range: Space | None = None
    # NumPy leaves operations with an array on the left to the operator, which says what it takes.
    __array_ufunc__ = None

    @abc.abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """A·V for a matrix of k columns, (n, k) to (m, k)."""

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U for a matrix of k columns, (m, k) to (n, k)."""
        if self.symmetric:
            return self.matmat(U)
        raise TypeError(f"{type(self).__name__} has no product with its transpose.")

    def gram(self, U: Tensor, V: Tensor) -> Tensor:
        """Inner products Uᵀ·V of two blocks of columns, also of long ones right to rounding."""
        return inner_products(U, V)

    def randn(self, k: int, rng: probes.Rng = None) -> Tensor:
        """k standard normal probe vectors as columns (n, k), keyed by seed, column and element."""
        return probes.randn(self.shape[1], k, rng, dtype=self.dtype, device=self.device)

    def signs(self, k: int, rng: probes.Rng = None) -> Tensor:
        """k vectors of random signs as columns (n, k), keyed by seed, column and element."""
        return probes.signs(self.shape[1], k, rng, dtype=self.dtype, device=self.device)

    def __matmul__(self, v: Any) -> Any:
        """A·v for a flat vector (n,), a matrix of columns (n, k), or a vector structured like ``domain``."""
        domain, range_ = self.domain, self.range
        if domain is not None and range_ is not None and (not isinstance(v, Tensor) or domain.holds(v)):
            return range_.spec.rebuild(self.multiply_leaves(domain.check(v)))
        if not isinstance(v, Tensor):
            raise TypeError(
                f"{type(self).__name__} multiplies tensors of shape ({self.shape[1]},) or ({self.shape[1]}, k)"
                f" but got {type(v)}."
            )
        return self._flat(v) if v.dim() == 1 else self.matmat(self.check_columns(v))

    def multiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """A times a vector given as the leaves of ``domain``, as the leaves of ``range``."""
        assert self.domain is not None
        assert self.range is not None
        return self.range.split(self._flat(self.domain.join(entries)))

    def rmultiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """Aᵀ times a vector given as the leaves of ``range``, as the leaves of ``domain``."""
        assert self.domain is not None
        assert self.range is not None
        return self.domain.split(self.rmatmat(self.range.join(entries).unsqueeze(-1)).squeeze(-1))

    def _flat(self, v: Tensor) -> Tensor:
        return self.matmat(self.check_columns(v.unsqueeze(-1))).squeeze(-1)

    def check_columns(self, V: Tensor) -> Tensor:
        """``V`` in the operator's dtype, or one sentence that says why it does not fit."""
        if V.dim() != 2 or V.shape[0] != self.shape[1]:
            shape = tuple(V.shape) if V.dim() != 2 or V.shape[1] != 1 else (V.shape[0],)
            raise ValueError(
                f"The vector given to {type(self).__name__} should have shape ({self.shape[1]},) or"
                f" ({self.shape[1]}, k) but has {shape}."
            )
        if V.dtype.is_complex:
            raise TypeError(
                f"The flat vector given to {type(self).__name__} should be real but has dtype {V.dtype}."
                " A complex entry counts as its real and imaginary part: use torch.view_as_real, or flatten()."
            )
        if V.device != self.device:
            raise ValueError(
                f"The vector given to {type(self).__name__} should be on {self.device} but is on {V.device}."
            )
        return V.to(self.dtype)

    def expect(self, products: int) -> None:
        """So many products are about to be asked for, which may pay for making them another way."""
        del products

    def settle(self) -> dict[str, str]:
        """Decide now how products are made, so that from now on their digits depend on no clock; what was decided."""
        return {}

    def adopt(self, settled: dict[str, str]) -> None:
        """Make products as another process settled it."""
        del settled

    @property
    def T(self) -> Operator:
        """The transpose."""
        from hesse.operators.algebra import Transpose

        return self if self.symmetric else Transpose(self)

    def shift(self, s: float) -> Operator:
        """A + s·identity."""
        from hesse.operators.algebra import Identity, Sum

        return Sum(self, float(s) * Identity(self))

    def __add__(self, other: Any) -> Operator:
        from hesse.operators.algebra import Sum

        _require_operator(other, "+")
        return Sum(self, other)

    def __radd__(self, other: Any) -> Operator:
        # sum() begins with the integer zero.
        return self if type(other) is int and other == 0 else self + other

    def __sub__(self, other: Any) -> Operator:
        from hesse.operators.algebra import Scaled

        _require_operator(other, "-")
        return self + Scaled(-1.0, other)

    def __rsub__(self, other: Any) -> Operator:
        total: Operator = -self + other
        return total

    def __rmatmul__(self, u: Any) -> Tensor:
        """u·A for a flat vector (m,) or a matrix of rows (k, m)."""
        if not isinstance(u, Tensor):
            raise TypeError(
                f"{type(self).__name__} is multiplied from the left by tensors of shape ({self.shape[0]},) or"
                f" (k, {self.shape[0]}) but got {type(u)}."
            )
        product: Tensor = (self.T @ u.mT).mT if u.dim() == 2 else self.T @ u
        return product

    def __mul__(self, factor: Any) -> Operator:
        from hesse.operators.algebra import Scaled

        if isinstance(factor, Tensor) and factor.dim() == 0:
            factor = factor.item()
        return Scaled(float(factor), self) if isinstance(factor, numbers.Real) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Operator:
        return self * -1.0

    def to_dense(self) -> Tensor:
        """The matrix (m, n), one product for each column (each row, where there are fewer)."""
        m, n = self.shape
        if m < n and not self.symmetric:
            return self.T.to_dense().mT
        # Whole chunks of the identity: rows of products land in the matrix they belong to.
        rows = torch.empty(n, m, dtype=self.dtype, device=self.device)
        for start in range(0, n, 64):
            width = min(64, n - start)
            basis = torch.zeros(width, n, dtype=self.dtype, device=self.device)
            basis.diagonal(start).fill_(1)
            rows[start : start + width] = self.matmat(basis.mT).mT
        return rows.mT

    def rows(self, places: Places) -> Tensor:
        """The rows of the matrix at some places, (k, n), one product each.

        Args:
            places: whole numbers, a tensor of them, or a slice; negative ones count from the end.

        Raises:
            IndexError: the matrix has no such row.

        Example:
            >>> import torch, hesse
            >>> H = hesse.Hessian(lambda x: x.prod(), torch.tensor([1.0, 2.0, 3.0]))
            >>> H.rows([0, -1])
            tensor([[0., 3., 2.],
                    [2., 1., 0.]])
        """
        m, n = self.shape
        chosen = positions(places, m)
        rows = torch.empty(len(chosen), n, dtype=self.dtype, device=self.device)
        units = UnitVectors(m, self.dtype, self.device, chosen)
        for start in range(0, len(chosen), 64):
            rows[start : start + 64] = self.rmatmat(units[start : start + 64].mT).mT
        return rows

    def to_scipy(self) -> ScipyOperator:
        """The operator as SciPy's ``LinearOperator``, for NumPy vectors."""
        from hesse.operators.scipy import to_scipy

        return to_scipy(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, device={self.device})"


def positions(places: Places, size: int) -> list[int]:
    """Places as numbers from 0 to ``size``."""
    if isinstance(places, slice):
        return list(range(size))[places]
    if isinstance(places, Tensor):
        if places.dtype.is_floating_point or places.dtype.is_complex or places.dtype == torch.bool:
            raise TypeError(f"Rows are asked for by whole numbers but got a tensor of {places.dtype}.")
        places = places.tolist()
    elif any(isinstance(place, bool) for place in places):
        raise TypeError("Rows are asked for by whole numbers but got truth values.")
    found = [operator.index(place) for place in places]
    outside = next((place for place in found if not -size <= place < size), None)
    if outside is not None:
        raise IndexError(f"Row {outside} was asked of a matrix that has {size}.")
    return [place % size for place in found]


def require_engine(name: str, before: str, now: str) -> None:
    """Raise where a checkpoint was written by another engine: rounding would make other digits."""
    if before != now:
        raise ValueError(
            f"The {name} multiplied by the {before} engine before and by the {now} one now, so its digits would differ."
            f' Make the operator anew, with engine="{before}".'
        )


def _require_operator(other: Any, sign: str) -> None:
    if isinstance(other, Operator):
        return
    if isinstance(other, numbers.Number) or (isinstance(other, Tensor) and other.dim() == 0):
        raise TypeError(
            f"An operator {sign} the number {other} is ambiguous: in torch it would mean every entry. For a multiple of"
            f" the identity use H.shift({sign if sign == '-' else ''}{other})."
        )
    raise TypeError(f"An operator {sign} {type(other)} is not defined. Wrap a matrix with hesse.as_operator.")
