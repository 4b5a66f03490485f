"""The mixed block between parameters and data: how the loss's gradient moves with the data."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from hesse._base import trees
from hesse._base.space import Space
from hesse._linearize.engines import Engines
from hesse._operators.data_point import DataPoint
from hesse._operators.operator import Operator
from hesse._operators.terms import HessianTerm, Part


class MixedBlock(Operator):
    r"""The block :math:`\partial^2 L / \partial\theta\, \partial z` of a loss over data, by parameters and data.

    Rows are the parameters; columns the part z of each batch, one after the other, as the structure of a list. Made by
    ``LossHessian.data_block``; every product goes over the data.
    """

    domain: Space
    range: Space

    def __init__(self, whole: DataPoint, part: Hashable) -> None:
        self._whole, self.range = whole, whole.variables
        # Batches are not cut up, since each has its own columns.
        self._point = DataPoint(
            whole.objective,
            lambda objective, linearize, batch, reduction, place: HessianTerm.of(objective, linearize, batch, part),
            # The same batches in the same order, also where a loader shuffles; and the same random numbers.
            whole.batches,
            whole.options,
            Engines(whole.options),
            whole.guard,
            whole.plan._replace(rows=None, reason="each batch has columns of its own"),
            whole.seed,
        )
        leaves = [_named(batch, part, number, self.range.name) for number, batch in enumerate(whole.batches)]
        self.domain = Space(leaves, trees.flatten(leaves)[1], "data block")
        self.shape = (self.range.size, self.domain.size)
        self.dtype, self.device = torch.promote_types(self.range.dtype, self.domain.dtype), self.range.device
        parameters = tuple(range(len(self.range.leaves)))
        data = (len(self.range.leaves),)
        self._by_data, self._by_parameters = Part(data, parameters), Part(parameters, data)

    def matmat(self, V: Tensor) -> Tensor:
        """The block times columns over the data (n_data, k)."""
        self._whole.guard.check()
        parts = self.domain.split(V.mT)
        total = torch.zeros(self.shape[0], V.shape[1], dtype=self.dtype, device=self.device)
        for weight, term, key, _ in self._point.terms():
            for column, vector in enumerate(parts[_batch_of(key)]):
                product = term.multiply([vector], self._by_data)
                total[:, column].add_(self.range.join(product), alpha=weight)
            del term
        return total.div_(self._point.divisor)

    def rmatmat(self, U: Tensor) -> Tensor:
        """Its transpose times columns over the parameters (n, k)."""
        self._whole.guard.check()
        rows = U.mT
        found = [
            torch.zeros(len(rows), *leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in self.domain.leaves
        ]
        for weight, term, key, _ in self._point.terms():
            for into, vector in zip(found[_batch_of(key)], rows, strict=True):
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
