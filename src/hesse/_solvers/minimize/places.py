"""A function at the points that a minimization visits: value, gradient, and the matrix of its quadratic model."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hesse._base.space import Space
from hesse._operators import sparse
from hesse._operators.data_operator import DataOperator
from hesse._operators.hessian import Hessian
from hesse._operators.jacobian import Jacobian
from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks

# Values are right to so many units of eps·|f|.
ROUNDING = 10


class Place(abc.ABC):
    """A function at one point.

    Attributes:
        space: vectors structured like the inputs.
        operator: the symmetric matrix of the quadratic model.
        value: f.
        info: the precision of f.
        gradient: ∇f as a column (n, 1), in the operator's dtype.
        slope: ‖∇f‖.
        price: how many products one with ``operator`` counts for.
        gradient_price: how many products ``gradient`` counts for.
        pattern: starts of rows and columns of the sparse matrix, where it is made.
    """

    price: ClassVar[int]
    gradient_price: ClassVar[int]
    pattern: Sequence[Tensor] | None = None

    def __init__(self, operator: Operator, space: Space, value: float, info: torch.finfo, gradient: Tensor) -> None:
        self.operator, self.space, self.value, self.info = operator, space, value, info
        self.gradient = gradient.detach().to(operator.dtype)
        self.slope = float(blocks.norms(operator, self.gradient))

    @property
    def is_finite(self) -> bool:
        """Whether value and gradient are finite."""
        return math.isfinite(self.value) and math.isfinite(self.slope)

    @property
    def rounding(self) -> float:
        """What the value may be wrong by."""
        return ROUNDING * self.info.eps * abs(self.value)

    def agreed(self, x: Tensor) -> Tensor:
        """A flat point in the same bits on all ranks."""
        return x

    @abc.abstractmethod
    def at(self, x: Tensor) -> Self:
        """The same function at another flat point (n,)."""


class ScalarPlace(Place):
    """A scalar function; the matrix is its Hessian."""

    price, gradient_price = 1, 0
    _H: Any

    def __init__(self, H: Hessian | DataOperator) -> None:
        self._H = H
        gradient = H.domain.flatten(H.gradient).unsqueeze(-1)
        super().__init__(H, H.domain, float(H.value), torch.finfo(H.value.dtype), gradient)

    def at(self, x: Tensor) -> Self:
        """The Hessian, moved."""
        return type(self)(self._H.at(self.space.unflatten(x)))


class DataPlace(ScalarPlace):
    """The loss of an operator over data, at parameters of its own; the matrix is the operator."""

    _H: DataOperator

    def at(self, x: Tensor) -> Self:
        """The operator, moved; the model stays as it is."""
        return type(self)(self._H.at(parameters=self.space.unflatten(x)))

    def agreed(self, x: Tensor) -> Tensor:
        """That of the first rank, where all have whole vectors."""
        ranks = self._H.ranks
        if ranks is None or self._H.shards is not None:
            return x
        return ranks.of_first("the point of minimize", lambda: x)


class SparsePlace(ScalarPlace):
    """A scalar function whose Hessian is made as a sparse matrix; ``pattern`` is as ``to_sparse()`` takes it."""

    def __init__(self, H: Hessian, pattern: Any = None) -> None:
        super().__init__(H)
        self._plan = sparse.planned(H, pattern, "minimize")
        self.pattern = [self._plan.starts, self._plan.columns]

    @property
    def matrix_price(self) -> int:
        """How many products the matrix takes, unless its pattern has moved."""
        return self._plan.num_products

    def sparse_matrix(self) -> tuple[Tensor, int]:
        """The Hessian in compressed rows, and how many products it took."""
        matrix, plan = sparse.to_sparse(self._H, None, "minimize"), sparse.planned(self._H, None)
        return matrix, self._plan.num_products + (0 if plan is self._plan else plan.num_products)


class ResidualPlace(Place):
    """½‖r‖² of residuals r with the Jacobian J; the matrix is JᵀJ, and the gradient Jᵀr."""

    price, gradient_price = 2, 1

    def __init__(self, J: Jacobian) -> None:
        if isinstance(J.value, Tensor) and not J.value.dim():
            raise TypeError(
                'func given to minimize with method="levenberg-marquardt" should return residuals but returned a'
                " scalar. Leave method out to minimize the scalar itself; one residual is a tensor of shape (1,)."
            )
        self._J = J
        residuals = J.range.flatten(J.value).detach().to(J.dtype).unsqueeze(-1)
        length = float(blocks.norms(J, residuals))
        super().__init__(J.T @ J, J.domain, 0.5 * length**2, torch.finfo(J.range.dtype), J.rmatmat(residuals))

    def at(self, x: Tensor) -> Self:
        """The Jacobian, moved."""
        return type(self)(self._J.at(self.space.unflatten(x)))


# How the function at its first point is made, by method.
METHODS: dict[str, Callable[..., Place]] = {
    "newton": lambda pattern, *function, **options: ScalarPlace(Hessian(*function, **options)),
    "levenberg-marquardt": lambda pattern, *function, **options: ResidualPlace(Jacobian(*function, **options)),
    "sparse-newton": lambda pattern, *function, **options: SparsePlace(Hessian(*function, **options), pattern),
}
