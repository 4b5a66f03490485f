"""The mixed block between parameters and data: how the loss's gradient moves with the data."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from hesse._base import trees
from hesse._base.space import Space
from hesse._data.automatic import DataEngine
from hesse._data.terms import HessianTerm, Term
from hesse._linearize.protocol import Selection
from hesse._operators.operator import Operator
from hesse._operators.summation import Place, Summation


class MixedBlock(Operator):
    r"""The block :math:`\partial^2 L / \partial\theta\, \partial z` of a loss over data, by parameters and data.

    Rows are the parameters; columns the part z of each batch, one after the other, as the structure of a list. Made by
    ``LossHessian.data_block``; every product goes over the data.
    """

    domain: Space
    range: Space

    def __init__(self, point: Callable[[], Summation], parameters: Space, part: Hashable) -> None:
        self._point, self.range = point, parameters
        # A look at the plan of the whole; batches are not cut up, since each has its own columns.
        now = point()
        self._sum = Summation(
            now.objective,
            lambda objective, linearizer, batch, reduction, place: HessianTerm(objective, linearizer, batch, part),
            # The same batches in the same order, also where a loader shuffles; and the same random numbers.
            now.batches,
            now.settings,
            DataEngine(now.settings.engine, now.settings.verify),
            now.plan._replace(rows=None, reason="each batch has columns of its own"),
            now.seed,
        )
        leaves = [_named(batch, part, number, now.objective.name) for number, batch in enumerate(now.batches)]
        self.domain = Space(leaves, trees.flatten(leaves)[1], "data block")
        self.shape = (self.range.size, self.domain.size)
        self.dtype, self.device = torch.promote_types(self.range.dtype, self.domain.dtype), self.range.device
        variables = len(parameters.leaves)
        self._by_data = Selection((variables,), tuple(range(variables)))
        self._by_parameters = Selection(tuple(range(variables)), (variables,))

    def matmat(self, V: Tensor) -> Tensor:
        """The block times columns over the data (n_data, k)."""
        self._point()
        parts = self.domain.split(V.mT)
        total = torch.zeros(self.shape[0], V.shape[1], dtype=self.dtype, device=self.device)

        def add(place: Place, term: Term, weight: float) -> None:
            for column, vector in enumerate(parts[place[0]]):
                product = term.multiply([vector], self._by_data, batched=False)
                total[:, column].add_(self.range.join(product), alpha=weight)

        return total.div_(self._sum.go(add))

    def rmatmat(self, U: Tensor) -> Tensor:
        """Its transpose times columns over the parameters (n, k)."""
        self._point()
        rows = U.mT
        found = [
            torch.zeros(len(rows), *leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in self.domain.leaves
        ]

        def add(place: Place, term: Term, weight: float) -> None:
            for into, vector in zip(found[place[0]], rows, strict=True):
                (product,) = term.multiply(self.range.split(vector), self._by_parameters, batched=False)
                into.add_(product, alpha=weight)

        divisor = self._sum.go(add)
        return self.domain.join(found, batch=1).to(self.dtype).div_(divisor).mT


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
