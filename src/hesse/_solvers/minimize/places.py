"""A function at the points that a minimization visits: value, gradient, and the matrix of its quadratic model."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from hesse._base.space import Space
from hesse._operators.hessian import Hessian
from hesse._operators.jacobian import Jacobian
from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks


class Place(abc.ABC):
    """A function at one point.

    Attributes:
        space: vectors structured like the inputs.
        value: f.
        eps: relative rounding of the value's dtype.
        operator: the symmetric matrix of the quadratic model.
        price: products that one product with this matrix counts for.
        gradient_price: products that the gradient counts for.
    """

    price = 1
    gradient_price = 0

    space: Space
    operator: Operator
    value: float
    eps: float

    @property
    @abc.abstractmethod
    def gradient(self) -> Tensor:
        """∇f as a column (n, 1) of the operator's dtype."""

    @abc.abstractmethod
    def at(self, x: Tensor) -> Self:
        """The same function at another flat point (n,)."""

    @functools.cached_property
    def slope(self) -> float:
        """‖∇f‖."""
        return float(blocks.norms(self.operator, self.gradient))

    @property
    def is_finite(self) -> bool:
        """Whether value and gradient are finite."""
        return bool(torch.isfinite(torch.tensor(self.value))) and bool(torch.isfinite(self.gradient).all())


class ScalarPlace(Place):
    """A scalar function: the model's matrix is the Hessian."""

    def __init__(self, H: Hessian) -> None:
        self.operator, self.space = H, H.domain
        self.value, self.eps = float(H.value), torch.finfo(H.value.dtype).eps
        self._gradient = H.domain.flatten(H.gradient).detach().to(H.dtype).unsqueeze(-1)

    @property
    def gradient(self) -> Tensor:
        """∇f, which was found with the value."""
        return self._gradient

    def at(self, x: Tensor) -> ScalarPlace:
        """The Hessian of the same function, moved."""
        assert isinstance(self.operator, Hessian)
        return ScalarPlace(self.operator.at(self.space.unflatten(x)))


class ResidualPlace(Place):
    """½‖r‖² of residuals r: the model's matrix is JᵀJ, and the gradient is Jᵀr."""

    price = 2
    gradient_price = 1

    def __init__(self, J: Jacobian) -> None:
        self._J, self.operator, self.space = J, J.T @ J, J.domain
        self._residuals = J.range.flatten(J.value).detach().to(J.dtype).unsqueeze(-1)
        length = float(blocks.norms(J, self._residuals)) if self.are_finite else float("inf")
        self.value, self.eps = 0.5 * length**2, torch.finfo(self._residuals.dtype).eps

    @property
    def are_finite(self) -> bool:
        """Whether all residuals are finite."""
        return bool(torch.isfinite(self._residuals).all())

    @functools.cached_property
    def gradient(self) -> Tensor:  # type: ignore[override]
        """Jᵀr, by one product when it is first asked for."""
        return self._J.rmatmat(self._residuals).detach().to(self.operator.dtype)

    def at(self, x: Tensor) -> ResidualPlace:
        """The Jacobian of the same function, moved."""
        return ResidualPlace(self._J.at(self.space.unflatten(x)))


def place_of(method: str, func: Callable[..., Any], x0: Any, **options: Any) -> Place:
    """The function at its first point, as the method sees it."""
    if method == "newton":
        return ScalarPlace(Hessian(func, x0, **options))
    return ResidualPlace(Jacobian(func, x0, **options))
