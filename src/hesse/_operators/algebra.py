"""Sums, multiples and transposes of operators, and the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base.space import Space
from hesse._operators.operator import Operator


def _shared(first: Space | None, second: Space | None) -> Space | None:
    """The structured space of a sum: that of its parts, where they agree."""
    if first is None or second is None:
        return first or second
    alike = first.spec.paths == second.spec.paths and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(first.leaves, second.leaves, strict=True)
    )
    return first if alike else None


class _Composite(Operator):
    """An operator made of others, whose products are made as theirs are."""

    _parts: tuple[Operator, ...]

    def expect(self, products: int) -> None:
        """Of each part."""
        for part in self._parts:
            part.expect(products)

    def settle(self) -> dict[str, str]:
        """Decide for each part."""
        settled = enumerate([part.settle() for part in self._parts])
        return {f"{place}.{name}": way for place, part in settled for name, way in part.items()}

    def adopt(self, settled: dict[str, str]) -> None:
        """Make the products of each part so."""
        for place, part in enumerate(self._parts):
            start = f"{place}."
            part.adopt({name.removeprefix(start): way for name, way in settled.items() if name.startswith(start)})


class Sum(_Composite):
    """A + B, for two operators of the same shape and device.

    Example:
        >>> import torch, hesse
        >>> A = hesse.as_operator(torch.eye(2))
        >>> (A + 2 * A) @ torch.ones(2)
        tensor([3., 3.])
    """

    def __init__(self, first: Operator, second: Operator) -> None:
        if first.shape != second.shape or first.device != second.device:
            raise ValueError(
                f"A sum needs operators of one shape and device but got {first.shape} on {first.device} and"
                f" {second.shape} on {second.device}."
            )
        self._parts = first, second
        self.shape, self.device = first.shape, first.device
        self.dtype = _promoted(first, second)
        self.symmetric = first.symmetric and second.symmetric
        self.positive_semidefinite = first.positive_semidefinite and second.positive_semidefinite
        self.differentiable = first.differentiable and second.differentiable
        self.domain = _shared(first.domain, second.domain)
        self.range = _shared(first.range, second.range)

    def matmat(self, V: Tensor) -> Tensor:
        """(A + B)·V."""
        first, second = self._parts
        return first.matmat(V.to(first.dtype)).to(self.dtype) + second.matmat(V.to(second.dtype))

    def rmatmat(self, U: Tensor) -> Tensor:
        """(A + B)ᵀ·U."""
        first, second = self._parts
        return first.rmatmat(U.to(first.dtype)).to(self.dtype) + second.rmatmat(U.to(second.dtype))


class Scaled(_Composite):
    """c·A, for a number c."""

    def __init__(self, factor: float, operator: Operator) -> None:
        self._factor, self._operator = factor, operator
        self._parts = (operator,)
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device
        self.symmetric = operator.symmetric
        self.positive_semidefinite = operator.positive_semidefinite and factor >= 0
        self.differentiable = operator.differentiable
        self.domain, self.range = operator.domain, operator.range

    def matmat(self, V: Tensor) -> Tensor:
        """c·A·V."""
        return self._factor * self._operator.matmat(V)

    def rmatmat(self, U: Tensor) -> Tensor:
        """c·Aᵀ·U."""
        return self._factor * self._operator.rmatmat(U)


class Transpose(_Composite):
    """Aᵀ."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._parts = (operator,)
        self.differentiable = operator.differentiable
        self.shape = (operator.shape[1], operator.shape[0])
        self.domain, self.range = operator.range, operator.domain
        self.dtype, self.device = operator.dtype, operator.device if self.domain is None else self.domain.device

    def matmat(self, V: Tensor) -> Tensor:
        """Aᵀ·V."""
        return self._operator.rmatmat(V)

    def rmatmat(self, U: Tensor) -> Tensor:
        """A·U."""
        return self._operator.matmat(U)

    def multiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """Aᵀ times a structured vector."""
        return self._operator.rmultiply_leaves(entries)

    def rmultiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """A times a structured vector."""
        return self._operator.multiply_leaves(entries)

    @property
    def T(self) -> Operator:
        """The transpose of the transpose: the operator itself."""
        return self._operator


class Identity(Operator):
    """The identity on the vectors of a square operator.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**2).sum(), torch.ones(2))
        >>> (H + 3 * hesse.Identity(H)) @ torch.ones(2)
        tensor([5., 5.])
    """

    symmetric = True
    positive_semidefinite = True
    differentiable = True

    def __init__(self, like: Operator) -> None:
        if like.shape[0] != like.shape[1]:
            raise ValueError(f"An identity needs a square operator but got one of shape {like.shape}.")
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self.domain, self.range = like.domain, like.range

    def matmat(self, V: Tensor) -> Tensor:
        """V itself, copied."""
        return V.clone()


def _promoted(first: Operator, second: Operator) -> torch.dtype:
    return torch.promote_types(first.dtype, second.dtype)
