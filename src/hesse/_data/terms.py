"""What is kept of one batch: the loss's Hessian there, or JᵀBJ with a matrix B on the predictions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hesse._autograd.gradients import gradients, zeros_where_none
from hesse._data import rows
from hesse._data.linearizers import Linearizer
from hesse._data.objective import Objective, Prediction
from hesse._linearize.protocol import Leaves, Linearization, Selection


class Term(Protocol):
    """A batch's matrix, symmetric, at the kept point.

    Attributes:
        value: the batch's loss.
        count: how many samples or tokens that loss is the mean of.
        linearizations: what is replayed in a product.
    """

    value: Tensor
    count: float | None
    linearizations: Sequence[Linearization]

    @property
    def gradient(self) -> Sequence[Tensor]:
        """The gradient of the batch's loss, as leaves."""
        ...

    def multiply(self, vectors: Leaves, selection: Selection, *, batched: bool, last: bool = False) -> list[Tensor]:
        """The part of the product in ``selection.inputs``, for a vector in ``selection.outputs``.

        The ``last`` one frees on the way what is kept.
        """
        ...

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes kept for products, that of the variables and of the tensors ``beside`` not counted."""
        ...


class GradientMap:
    """The gradient of a batch's loss by the variables and, where a part of the batch is named, by that after them."""

    def __init__(self, objective: Objective, batch: Any, part: Hashable = None) -> None:
        self._objective, self._batch, self._part = objective, batch, part
        self._number = len(objective.leaves)

    def __call__(self, leaves: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
        """The gradient; and the loss, and what its terms are counted by."""
        objective, x = self._objective, leaves[: self._number]
        # What is named takes its place in the batch again, where autograd can follow it.
        seen = self._batch if self._part is None else rows.replaced(self._batch, self._part, leaves[self._number])

        def gradient() -> Any:
            value, counted = objective.value(x, seen)
            objective.require_followed([value])
            grads = gradients((value,), leaves, create_graph=True)
            return zeros_where_none(grads, leaves), (value.detach().reshape(()), counted)

        found: tuple[tuple[Tensor, ...], Any] = objective.within(x, gradient)
        return found

    def replay(self, leaves: Sequence[Tensor], thunk: Callable[[], Any]) -> Any:
        """A product, whose backward may evaluate checkpointed layers again."""
        return self._objective.replay(leaves[: self._number], thunk)


class HessianTerm:
    """The Hessian of a batch's loss, by the variables and, where a part of the batch is named, by that after them."""

    def __init__(self, objective: Objective, linearizer: Linearizer, batch: Any, part: Hashable = None) -> None:
        self._variables = objective.leaves
        point = objective.leaves if part is None else [*objective.leaves, batch[part]]
        self._linearization = linearizer.linearize("gradient", GradientMap(objective, batch, part), point, batch)
        self.linearizations: Sequence[Linearization] = [self._linearization]
        self.value, counted = self._linearization.aux
        self.count = objective.count(batch, counted)
        # A target of its own, which a program copies, is needed no more.
        self._linearization.aux = None

    @property
    def gradient(self) -> Sequence[Tensor]:
        """The gradient, which was found on the way."""
        return self._linearization.outputs[: len(self._variables)]

    def multiply(self, vectors: Leaves, selection: Selection, *, batched: bool, last: bool = False) -> list[Tensor]:
        """H·v: one backward through the gradient's graph, or one replay of a program."""
        return self._linearization.rmatvec(vectors, selection, batched=batched, last=last)

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that are kept alive for products, and the gradient's."""
        return self._linearization.kept_bytes([*self._variables, *beside]) + _size(self.gradient)


class Curvature(Protocol):
    """A symmetric matrix B on the predictions of a batch.

    Attributes:
        linearizations: what is replayed in a product with it.
    """

    linearizations: Sequence[Linearization]

    def multiply(self, vectors: Leaves, *, batched: bool) -> list[Tensor]:
        """B·u; ``batched``: one vector a row."""
        ...

    def kept_bytes(self) -> int:
        """Bytes kept for products."""
        ...


class Curved(NamedTuple):
    """The loss of a prediction, its gradient by it, and B."""

    value: Tensor
    gradient: Sequence[Tensor]
    curvature: Curvature


class PredictionMap:
    """The prediction for a batch as a function of the variables."""

    def __init__(self, objective: Objective, batch: Any) -> None:
        self._objective, self._batch = objective, batch

    def __call__(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], Prediction]:
        """The floating-point tensors of the prediction; and all else of it."""
        objective = self._objective
        prediction: Prediction = objective.within(x, lambda: objective.predict(x, self._batch))
        objective.require_followed(prediction.leaves)
        return prediction.leaves, prediction._replace(leaves=[])

    def replay(self, x: Sequence[Tensor], thunk: Callable[[], Any]) -> Any:
        """A product, whose backward may evaluate checkpointed layers again."""
        return self._objective.replay(x, thunk)


class OuterTerm:
    """JᵀBJ: J the Jacobian of a batch's prediction, B a matrix on the predictions, made of one by ``curve``."""

    def __init__(
        self, objective: Objective, linearizer: Linearizer, batch: Any, curve: Callable[[Prediction], Curved]
    ) -> None:
        self._variables = objective.leaves
        self._jacobian = linearizer.linearize("prediction", PredictionMap(objective, batch), objective.leaves, batch)
        predicted: Prediction = self._jacobian.aux
        self._jacobian.aux = None
        self._everything = tuple(range(len(self._jacobian.outputs)))
        self.count = objective.count(batch, predicted.counted)
        # Laid out alike whichever engine predicts, so that one program of the loss serves.
        leaves = self._jacobian.outputs = [output.contiguous() for output in self._jacobian.outputs]
        self.value, self._output_gradient, self._curvature = curve(predicted._replace(leaves=leaves, terms=self.count))
        self.linearizations: Sequence[Linearization] = [self._jacobian, *self._curvature.linearizations]
        self._multiplied = False

    @property
    def gradient(self) -> Sequence[Tensor]:
        """Jᵀ times the gradient of the loss by the prediction: one backward."""
        variables = tuple(range(len(self._variables)))
        return self._jacobian.rmatvec(self._output_gradient, Selection(self._everything, variables))

    def multiply(self, vectors: Leaves, selection: Selection, *, batched: bool, last: bool = False) -> list[Tensor]:
        """Jᵀ·B·J·v."""
        self._multiplied = True
        there, back = Selection(self._everything, selection.outputs), Selection(self._everything, selection.inputs)
        pushed = self._jacobian.matvec(vectors, there, batched=batched, last=last)
        cotangents = self._curvature.multiply(pushed, batched=batched)
        return self._jacobian.rmatvec(cotangents, back, batched=batched, last=last)

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that the prediction's graph, that of Jᵀw and B keep alive."""
        if not self._multiplied and self._jacobian.engine == "tape":
            # The first product makes the graph of Jᵀw, which is then kept too.
            variables = tuple(range(len(self._variables)))
            zeros = [torch.zeros_like(leaf) for leaf in self._variables]
            self.multiply(zeros, Selection(variables, variables), batched=False)
        return (
            self._jacobian.kept_bytes([*self._variables, *beside])
            + _size(self._jacobian.outputs)
            + self._curvature.kept_bytes()
        )


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
