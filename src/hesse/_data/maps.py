"""What is linearized of a batch: the gradient of its loss, or its prediction, as maps of the variables."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from hesse._autograd.dependence import Followed, require_dependence
from hesse._autograd.gradients import gradient_to_multiply, zeros_where_none
from hesse._data import rows
from hesse._data.models import Objective
from hesse._data.objective import Prediction


class GradientMap:
    """The gradient of a batch's loss by the variables and, where a part of the batch is named, by that after them."""

    def __init__(self, objective: Objective, batch: Any, part: Hashable = None) -> None:
        self._objective, self._batch, self._part = objective, batch, part
        self._number = len(objective.leaves)

    def __call__(self, leaves: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        """The gradient; and the loss with what its terms are counted by."""
        objective, x = self._objective, leaves[: self._number]
        # The named part takes its place in the batch again, where autograd can follow it.
        seen = self._batch if self._part is None else rows.replaced(self._batch, self._part, leaves[self._number])
        value, counted = objective.value(x, seen)
        grads = gradient_to_multiply(value, leaves, keep_graph=False)
        if any([grad is None for grad in grads]):
            given = [*objective.leaves, *([] if self._part is None else [self._batch[self._part]])]
            followed = Followed(given, objective.reads(), self._batch, lambda _: [objective.value(x, seen)[0]])
            require_dependence(objective.name, "a loss that", [value], leaves, followed)
        return zeros_where_none(grads, leaves), (value.detach().reshape(()), counted)


class PredictionMap:
    """The prediction for a batch as a function of the variables."""

    def __init__(self, objective: Objective, batch: Any) -> None:
        self._objective, self._batch = objective, batch

    def __call__(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], Prediction]:
        """The floating-point tensors of the prediction; and all else of it."""
        objective, batch = self._objective, self._batch
        prediction = objective.predict(x, batch)
        followed = Followed(objective.leaves, objective.reads(), batch, lambda x: objective.predict(x, batch).leaves)
        require_dependence(objective.name, "a prediction that", prediction.leaves, x, followed)
        return prediction.leaves, prediction._replace(leaves=[])
