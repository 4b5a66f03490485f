"""What is linearized of a batch: the gradient of its loss, or its prediction, as maps of the variables."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from hesse._autograd.dependence import Followed, require_dependence
from hesse._autograd.gradients import gradient_to_multiply, zeros_where_none
from hesse._data import rows
from hesse._data.objective import Objective, Prediction

Around = Callable[[Sequence[Tensor], Callable[[], Any]], Any]
"""``around(x, product)``: ``product()``, with what surrounded the evaluation at x."""


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

        def gradient() -> Any:
            value, counted = objective.value(x, seen)
            objective.require_followed([value])
            grads = gradient_to_multiply(value, leaves, keep_graph=False)
            if any([grad is None for grad in grads]):
                given = [*objective.leaves, *([] if self._part is None else [self._batch[self._part]])]
                followed = Followed(given, objective.reads(), self._batch, lambda _: [objective.value(x, seen)[0]])
                require_dependence(objective.name, "a loss that", [value], leaves, followed)
            return zeros_where_none(grads, leaves), (value.detach().reshape(()), counted)

        found: tuple[tuple[Tensor, ...], Any] = objective.within(x, gradient)
        return found

    @property
    def around(self) -> Around | None:
        """What products run in, since their backward may evaluate checkpointed layers again."""
        if self._objective.is_pure:
            return None
        return lambda leaves, product: self._objective.replay(leaves[: self._number], product)


class PredictionMap:
    """The prediction for a batch as a function of the variables."""

    def __init__(self, objective: Objective, batch: Any) -> None:
        self._objective, self._batch = objective, batch

    def __call__(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], Prediction]:
        """The floating-point tensors of the prediction; and all else of it."""
        objective = self._objective

        def predict(x: tuple[Tensor, ...]) -> Prediction:
            prediction: Prediction = objective.within(x, lambda: objective.predict(x, self._batch))
            return prediction

        prediction = predict(x)
        objective.require_followed(prediction.leaves)
        followed = Followed(objective.leaves, objective.reads(), self._batch, lambda x: predict(x).leaves)
        require_dependence(objective.name, "a prediction that", prediction.leaves, x, followed)
        return prediction.leaves, prediction._replace(leaves=[])

    @property
    def around(self) -> Around | None:
        """What products run in, since their backward may evaluate checkpointed layers again."""
        return None if self._objective.is_pure else self._objective.replay
