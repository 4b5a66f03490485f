"""Sums, products and transposes of linear maps, and the identity."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hesse._base.space import Space
from hesse._base.trees import dotted_name
from hesse._operators.linear_map import Decisions, LinearMap
from hesse._ranks.group import Ranks
from hesse._ranks.shards import Shards

Way = Literal["matmat", "rmatmat", "_matvec", "_rmatvec"]
"""The names that products have in a linear map."""
_TRANSPOSED: dict[Way, Way] = {"matmat": "rmatmat", "rmatmat": "matmat", "_matvec": "_rmatvec", "_rmatvec": "_matvec"}


class Identity(LinearMap):
    """The identity on the vectors of a square operator."""

    symmetric = True
    positive_semidefinite = True
    differentiable = True

    def __init__(self, like: LinearMap) -> None:
        if not isinstance(like, LinearMap):
            raise TypeError(f"like given to Identity should be an operator but has type {type(like)}.")
        if like.shape[0] != like.shape[1]:
            raise ValueError(f"An identity needs a square operator but got one of shape {like.shape}.")
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self.domain, self.range = like.domain, like.range
        self.ranks, self.shards = like.ranks, like.shards

    def matmat(self, V: Tensor) -> Tensor:
        """V itself, copied."""
        return V.clone()


class _Composite(LinearMap):
    """A map made of others, whose products are made as theirs are."""

    def __init__(self, *parts: LinearMap, domain: Space | None, range: Space | None) -> None:
        self._parts = parts
        self.device = parts[0].device
        self.dtype = functools.reduce(torch.promote_types, [part.dtype for part in parts])
        self.differentiable = all([part.differentiable for part in parts])
        self.domain, self.range = domain, range
        self.ranks, self.shards = _ranks_of(parts), _shards_of(parts)

    @abc.abstractmethod
    def _multiplied(self, way: Way, V: Tensor) -> Tensor:
        """The product by that name, from those of the parts by a name."""

    def matmat(self, V: Tensor) -> Tensor:
        """From the parts' products."""
        return self._multiplied("matmat", V)

    def rmatmat(self, U: Tensor) -> Tensor:
        """From the parts' products."""
        return self._multiplied("rmatmat", U)

    def _matvec(self, v: Tensor) -> Tensor:
        return self._multiplied("_matvec", v)

    def _rmatvec(self, u: Tensor) -> Tensor:
        return self._multiplied("_rmatvec", u)

    def expect(self, products: int) -> None:
        """Of each part."""
        for part in self._parts:
            part.expect(products)

    def decide(self, earlier: Decisions | None = None) -> Decisions:
        """Of each part."""
        before = earlier or {}
        return {str(number): part.decide(before.get(str(number))) for number, part in enumerate(self._parts)}

    def _precision(self) -> torch.dtype:
        """Of the part that rounds most."""
        return max([part._precision() for part in self._parts], key=lambda dtype: torch.finfo(dtype).eps)

    def _recipe(self) -> str:
        return f"{type(self).__name__}({', '.join([part._recipe() for part in self._parts])})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._formula()}, shape={self.shape}, dtype={self.dtype}, device={self.device})"


class Sum(_Composite):
    """Σ c·A of (c, A), for operators of one shape and device; the terms of a sum among them are taken over.

    Example:
        >>> import torch, hesse
        >>> A = hesse.as_operator(torch.eye(2))
        >>> A + 2 * A - A / 4
        Sum(Dense + 2 * Dense - 0.25 * Dense, shape=(2, 2), dtype=torch.float32, device=cpu)
        >>> (A + 2 * A) @ torch.ones(2)
        tensor([3., 3.])
    """

    def __init__(self, *terms: tuple[float, LinearMap]) -> None:
        self._terms: list[tuple[float, LinearMap]] = []
        for factor, operator in terms:
            inner = operator._terms if isinstance(operator, Sum) else [(1.0, operator)]
            self._terms += [(factor * weight, part) for weight, part in inner]
        parts = [part for _, part in self._terms]
        _require_one([f"{part.shape} on {part.device}" for part in parts], "sum", "shape and device")
        super().__init__(
            *parts,
            domain=_shared([part.domain for part in parts]),
            range=_shared([part.range for part in parts]),
        )
        self.shape = parts[0].shape
        self.symmetric = all([part.symmetric for part in parts])
        self.positive_semidefinite = all([part.positive_semidefinite and c >= 0 for c, part in self._terms])

    def _multiplied(self, way: Way, V: Tensor) -> Tensor:
        # New tensors even where a term is the identity.
        total: Tensor | None = None
        for factor, part in self._terms:
            term = (V if isinstance(part, Identity) else getattr(part, way)(V.to(part.dtype))).to(self.dtype)
            total = factor * term if total is None else total.add_(term, alpha=factor)
            # The next product is made without it.
            del term
        assert total is not None
        return total

    def _recipe(self) -> str:
        return " + ".join([f"{factor!r} * {part._recipe()}" for factor, part in self._terms])

    def _formula(self) -> str:
        formula = ""
        for factor, part in self._terms:
            sign = "-" if factor < 0 else "+"
            formula += (f" {sign} " if formula else "-" * (factor < 0)) + f"{abs(factor):g} * " * (abs(factor) != 1)
            formula += part._formula()
        return formula


class Product(_Composite):
    """A·B·…, known to be symmetric where it reads the same backward: AᵀBA for a symmetric B, AᵀA, or AA.

    Example:
        >>> import torch, hesse
        >>> J = hesse.Jacobian(lambda x: torch.stack([x.sum(), x.prod()]), torch.tensor([2.0, 3.0]))
        >>> L = hesse.as_operator(2 * torch.eye(2))
        >>> (J.T @ L @ J).to_dense(), (J.T @ L @ J).symmetric
        (tensor([[20., 14.],
                [14., 10.]]), True)
    """

    def __init__(self, *factors: LinearMap) -> None:
        parts = [part for factor in factors for part in (factor._parts if isinstance(factor, Product) else [factor])]
        for left, right in itertools.pairwise(parts):
            if left.shape[1] != right.shape[0]:
                raise ValueError(
                    f"A product needs operators that fit but got shapes {left.shape} and {right.shape} side by side."
                )
            _require_one_order(left.domain, right.range)
        _require_one([str(part.device) for part in parts], "product", "device")
        super().__init__(*parts, domain=parts[-1].domain, range=parts[0].range)
        self.shape = parts[0].shape[0], parts[-1].shape[1]
        half, odd = divmod(len(parts), 2)
        # Bᵀ·M·B with M the middle factor, or none.
        middle = parts[half : half + odd]
        mirrored = all([_are_transposes(parts[i], parts[-1 - i]) for i in range(half)])
        self.symmetric = mirrored and all([part.symmetric for part in middle])
        self.positive_semidefinite = self.symmetric and all([part.positive_semidefinite for part in middle])

    def _multiplied(self, way: Way, V: Tensor) -> Tensor:
        for part in self._parts if way in ("rmatmat", "_rmatvec") else reversed(self._parts):
            V = getattr(part, way)(V.to(part.dtype))
        return V.to(self.dtype)

    def _formula(self) -> str:
        formulas = [(isinstance(part, Sum), part._formula()) for part in self._parts]
        return " @ ".join([f"({formula})" if is_sum else formula for is_sum, formula in formulas])


class Transpose(_Composite):
    """Aᵀ."""

    def __init__(self, operator: LinearMap) -> None:
        super().__init__(operator, domain=operator.range, range=operator.domain)
        self._operator = operator
        self.shape = (operator.shape[1], operator.shape[0])
        if self.domain is not None:
            self.device = self.domain.device

    def _multiplied(self, way: Way, V: Tensor) -> Tensor:
        found: Tensor = getattr(self._operator, _TRANSPOSED[way])(V)
        return found

    def multiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """Aᵀ times a structured vector."""
        return self._operator.rmultiply_leaves(entries)

    def rmultiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """A times a structured vector."""
        return self._operator.multiply_leaves(entries)

    def _formula(self) -> str:
        formula = self._operator._formula()
        return f"({formula}).T" if isinstance(self._operator, Sum) else f"{formula}.T"


def _ranks_of(parts: Sequence[LinearMap]) -> Ranks | None:
    """The ranks that make products of the parts together; None where each part belongs to one process."""
    found = {id(part.ranks): part.ranks for part in parts if part.ranks is not None}
    if len(found) > 1:
        raise ValueError("Operators of one group of ranks are put together but got two groups. Make them with one.")
    return next(iter(found.values()), None)


def _shards_of(parts: Sequence[LinearMap]) -> Shards | None:
    """How vectors lie on ranks, which is the same for all parts."""
    first, *others = [part.shards for part in parts]
    if any([not first.is_like(other) if first is not None else other is not None for other in others]):
        raise ValueError(
            "Operators whose vectors are cut up among ranks the same way are put together but got different ones. Make"
            " them of one model."
        )
    return first


def _are_transposes(first: LinearMap, second: LinearMap) -> bool:
    """Whether one map is the transpose of the other, as far as it shows by what they are made of."""
    if isinstance(first, Transpose):
        return first._operator is second
    if isinstance(second, Transpose):
        return second._operator is first
    return first is second and first.symmetric


def _shared(spaces: Sequence[Space | None]) -> Space | None:
    """The structured space of maps that agree on it, as far as they know of any; None where they do not agree."""
    known = [space for space in spaces if space is not None]
    for other in known[1:]:
        _require_one_order(known[0], other)
    return known[0] if known and all([_alike(known[0], other) for other in known[1:]]) else None


def _alike(first: Space, second: Space) -> bool:
    return first.spec.paths == second.spec.paths and all(
        [a.shape == b.shape and a.dtype == b.dtype for a, b in zip(first.leaves, second.leaves, strict=True)]
    )


def _require_one_order(first: Space | None, second: Space | None) -> None:
    """Raise where the same entries come in another order: flat vectors would be mixed up without a word."""
    if first is None or second is None or first.spec.paths == second.spec.paths:
        return
    if set(first.spec.paths) == set(second.spec.paths):
        orders = " and ".join([", ".join(map(dotted_name, space.spec.paths)) for space in (first, second)])
        raise ValueError(
            f"The entries of two operators come in different orders, {orders}, so that their flat vectors do not match."
            " Make both operators with one order."
        )


def _require_one(found: Sequence[str], what: str, name: str) -> None:
    if len(set(found)) > 1:
        raise ValueError(f"A {what} needs operators of one {name} but got {' and '.join(dict.fromkeys(found))}.")
