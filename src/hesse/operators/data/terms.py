"""What is kept of one batch: the loss's Hessian there, or JᵀBJ with a matrix B on the predictions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hesse.engines import tape
from hesse.engines.linearization import Leaves, Linearization, Selection
from hesse.functional.gradients import gradients, zeros_where_none
from hesse.operators.data import rows
from hesse.operators.data.objective import Objective, Prediction


class Term(Protocol):
    """A batch's matrix, symmetric, at the kept point.

    Attributes:
        value: the batch's loss.
        count: how many samples or tokens that loss is the mean of.
    """

    value: Tensor
    count: float | None

    @property
    def gradient(self) -> Sequence[Tensor]:
        """The gradient of the batch's loss, as leaves."""
        ...

    def multiply(self, vectors: Leaves, selection: Selection, *, batched: bool) -> list[Tensor]:
        """The part of the product in ``selection.inputs``, for a vector in ``selection.outputs``."""
        ...

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes kept for products, that of the variables and of the tensors ``beside`` not counted."""
        ...


class HessianTerm:
    """The Hessian of a batch's loss, by the variables and, where a part of the batch is named, by that after them."""

    def __init__(self, objective: Objective, batch: Any, part: Hashable = None) -> None:
        self._objective = objective
        number = len(objective.leaves)

        def gradient_at(leaves: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
            x = leaves[:number]
            # What is named takes its place in the batch again, where autograd can follow it.
            seen = rows.replaced(batch, part, leaves[number]) if len(leaves) > number else batch

            def gradient() -> Any:
                value, count = objective.value(x, seen)
                objective.require_followed([value])
                grads = gradients((value,), leaves, create_graph=True)
                return zeros_where_none(grads, leaves), (value.detach().reshape(()), count, x)

            found: tuple[tuple[Tensor, ...], Any] = objective.within(x, gradient)
            return found

        point = objective.leaves if part is None else [*objective.leaves, batch[part]]
        self._linearization: Linearization = tape.linearize(gradient_at, point, name=objective.name)
        # Handed out as the map's second output: a map that refers to this term would keep both alive.
        self.value, self.count, self._x = self._linearization.aux

    @property
    def gradient(self) -> Sequence[Tensor]:
        """The gradient, which was found on the way."""
        return self._linearization.outputs[: len(self._objective.leaves)]

    def multiply(self, vectors: Leaves, selection: Selection, *, batched: bool) -> list[Tensor]:
        """H·v: one backward through the gradient's graph."""
        product: list[Tensor] = self._objective.replay(
            self._x, lambda: self._linearization.rmatvec(vectors, selection, batched=batched)
        )
        return product

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that the gradient's graph keeps alive."""
        return self._linearization.kept_bytes([*self._objective.leaves, *beside]) + _size(self.gradient)


class Curvature(Protocol):
    """A symmetric matrix B on the predictions of a batch."""

    def multiply(self, vectors: Leaves, *, batched: bool) -> list[Tensor]:
        """B·u; ``batched``: one vector a row."""
        ...

    def kept_bytes(self) -> int:
        """Bytes kept for products."""
        ...


MakeCurvature = Callable[[Prediction, Sequence[Tensor]], Curvature]
"""B, made from the prediction and the gradient of the loss by its leaves."""


class OuterTerm:
    """JᵀBJ: J the Jacobian of a batch's prediction, B a matrix on the predictions."""

    def __init__(self, objective: Objective, batch: Any, make: MakeCurvature) -> None:
        self._objective = objective

        def outputs_at(x: tuple[Tensor, ...]) -> tuple[list[Tensor], Any]:
            prediction: Prediction = objective.within(x, lambda: objective.predict(x, batch))
            objective.require_followed(prediction.leaves)
            return prediction.leaves, (prediction, x)

        self._jacobian: Linearization = tape.linearize(outputs_at, objective.leaves, name=objective.name)
        predicted, self._x = self._jacobian.aux
        outputs = self._jacobian.outputs
        prediction = Prediction(outputs, predicted.loss, predicted.target, predicted.counted)
        self._multiplied = False
        self._everything = tuple(range(len(outputs)))
        self.count = prediction.counted

        def loss_at(leaves: tuple[Tensor, ...]) -> tuple[Leaves, Any]:
            value = prediction.loss(leaves)
            return zeros_where_none(gradients((value,), leaves), leaves), value.detach().reshape(())

        lossy = tape.linearize(loss_at, outputs, name=objective.name)
        self.value, self._output_gradient = lossy.aux, lossy.outputs
        lossy.close()
        self._curvature = make(prediction, self._output_gradient)

    @property
    def gradient(self) -> Sequence[Tensor]:
        """Jᵀ times the gradient of the loss by the prediction: one backward."""
        variables = tuple(range(len(self._objective.leaves)))
        return self._pull(self._output_gradient, variables, batched=False)

    def multiply(self, vectors: Leaves, selection: Selection, *, batched: bool) -> list[Tensor]:
        """Jᵀ·B·J·v."""
        self._multiplied = True
        pushed: list[Tensor] = self._objective.replay(
            self._x,
            lambda: self._jacobian.matvec(vectors, Selection(self._everything, selection.outputs), batched=batched),
        )
        return self._pull(self._curvature.multiply(pushed, batched=batched), selection.inputs, batched=batched)

    def _pull(self, cotangents: Leaves, inputs: tuple[int, ...], *, batched: bool) -> list[Tensor]:
        product: list[Tensor] = self._objective.replay(
            self._x,
            lambda: self._jacobian.rmatvec(cotangents, Selection(self._everything, inputs), batched=batched),
        )
        return product

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that the prediction's graph, that of Jᵀw and B keep alive."""
        if not self._multiplied:
            # The first product makes the graph of Jᵀw, which is then kept too.
            variables = tuple(range(len(self._objective.leaves)))
            zeros = [torch.zeros_like(leaf) for leaf in self._objective.leaves]
            self.multiply(zeros, Selection(variables, variables), batched=False)
        return (
            self._jacobian.kept_bytes([*self._objective.leaves, *beside])
            + _size(self._jacobian.outputs)
            + self._curvature.kept_bytes()
        )


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
