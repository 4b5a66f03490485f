"""The mixed block between parameters and data: how the loss's gradient moves with the data."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from hesse._base import trees
from hesse._base.space import Space
from hesse._linearize.engines import Engines
from hesse._operators.data_point import DataPoint
from hesse._operators.operator import Operator
from hesse._operators.shared_point import SharedPoint
from hesse._operators.terms import HessianTerm, Part


class MixedBlock(Operator):
    r"""The block :math:`\partial^2 L / \partial\theta\, \partial z` of a loss over data, by parameters and data.

    Rows are the parameters; columns the part z of each batch, one after the other, as the structure of a list. Made by
    ``LossHessian.data_block``; every product goes over the data.
    """

    domain: Space
    range: Space

    def __init__(self, point: DataPoint | SharedPoint, part: Hashable) -> None:
        self._shared = point if isinstance(point, SharedPoint) else None
        whole = point.local if isinstance(point, SharedPoint) else point
        assert isinstance(whole, DataPoint)
        self._whole, self.range, self.ranks = whole, whole.variables, point.ranks

        def prepare() -> tuple[DataPoint, list[Tensor]]:
            # Batches are not cut up, since each has its own columns.
            own = DataPoint(
                whole.objective,
                lambda objective, linearize, batch, reduction, place: HessianTerm.of(objective, linearize, batch, part),
                # The same batches in the same order, also where a loader shuffles; and the same random numbers.
                whole.batches,
                whole.options,
                Engines(whole.options),
                whole.guard,
                whole.plan._replace(rows=None, reason="each batch has columns of its own"),
                whole.seed,
                is_part=self._shared is not None,
            )
            return own, [_named(batch, part, number, self.range.name) for number, batch in enumerate(whole.batches)]

        leaves: list[Tensor] = []
        # Which of the leaves, the batches of all ranks, are this rank's.
        self._first = 0
        if self._shared is None:
            self._point, leaves = prepare()
        else:
            made: list[Any] = []

            def shapes() -> list[tuple[torch.Size, torch.dtype]]:
                made.extend(prepare())
                return [(leaf.shape, leaf.dtype) for leaf in made[1]]

            for rank, found in enumerate(self._shared.gather("a data block", shapes)):
                if rank == self._shared.rank:
                    self._first = len(leaves)
                # Of other ranks' batches a vector has the shape, and nothing is held.
                leaves += [
                    torch.zeros((), dtype=dtype, device=self.range.device).expand(shape) for shape, dtype in found
                ]
            self._point = made[0]
        self.domain = Space(leaves, trees.flatten(leaves)[1], "data block")
        self.shape = (self.range.size, self.domain.size)
        self.dtype, self.device = torch.promote_types(self.range.dtype, self.domain.dtype), self.range.device
        parameters = tuple(range(len(self.range.leaves)))
        data = (len(self.range.leaves),)
        self._by_data, self._by_parameters = Part(data, parameters), Part(parameters, data)

    def matmat(self, V: Tensor) -> Tensor:
        """The block times columns over the data (n_data, k)."""
        return self._over_ranks("a product", self._multiply, V, self.shape[0])

    def rmatmat(self, U: Tensor) -> Tensor:
        """Its transpose times columns over the parameters (n, k)."""
        return self._over_ranks("a transposed product", self._multiply_transposed, U, self.shape[1])

    def _over_ranks(self, what: str, multiply: Callable[[Tensor], Tensor], V: Tensor, size: int) -> Tensor:
        if self._shared is None:
            return multiply(V)
        like = torch.empty(size * V.shape[1], dtype=self.dtype, device=self.device)
        share = self._shared.share

        def own() -> Tensor:
            return multiply(V).reshape(-1) * share if share else torch.zeros_like(like)

        return self._shared.total(f"{what} with a data block", own, like, [V]).reshape(size, V.shape[1])

    def _multiply(self, V: Tensor) -> Tensor:
        self._whole.guard.check()
        parts = self.domain.split(V.mT)
        total = torch.zeros(self.shape[0], V.shape[1], dtype=self.dtype, device=self.device)
        for weight, term, key, _ in self._point.terms():
            for column, vector in enumerate(parts[self._first + _batch_of(key)]):
                product = term.multiply([vector], self._by_data)
                total[:, column].add_(self.range.join(product), alpha=weight)
            del term
        return total.div_(self._point.divisor)

    def _multiply_transposed(self, U: Tensor) -> Tensor:
        self._whole.guard.check()
        rows = U.mT
        found = [
            torch.zeros(len(rows), *leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in self.domain.leaves
        ]
        for weight, term, key, _ in self._point.terms():
            for into, vector in zip(found[self._first + _batch_of(key)], rows, strict=True):
                (product,) = term.multiply(self.range.split(vector), self._by_parameters)
                into.add_(product, alpha=weight)
            del term
        return self.domain.join(found, batch=1).to(self.dtype).div_(self._point.divisor).mT


def _batch_of(key: Any) -> int:
    number: int = key[0]
    return number


def _named(batch: Any, part: Hashable, number: int, name: str) -> Tensor:
    """The tensor at ``part`` of a batch, or one sentence that says why there is none."""
    try:
        tensor = batch[part]
    except (KeyError, IndexError, TypeError) as error:
        raise KeyError(f"Batch {number} of the data given to {name} has no part {part!r}.") from error
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        what = tensor.dtype if isinstance(tensor, Tensor) else type(tensor)
        raise TypeError(
            f"Part {part!r} of batch {number} of the data given to {name} should be a floating-point tensor but is"
            f" {what}."
        )
    return tensor
