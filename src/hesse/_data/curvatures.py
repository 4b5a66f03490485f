"""Matrices on the predictions of a batch: the loss's Hessian there, and sums of outer products of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hesse._autograd.gradients import gradient_to_multiply, gradients, zeros_where_none
from hesse._data.losses import Known, Reduction, class_dimension
from hesse._data.models import Objective
from hesse._data.objective import Prediction
from hesse._linearize import tape
from hesse._linearize.engines import Linearize
from hesse._linearize.protocol import Leaves, Linearization, Selection

Sample = Literal["row", "token"]

LossOf = Callable[[Prediction, Sequence[Tensor]], Tensor]
"""The loss of a prediction with other tensors in the place of its floating-point ones."""


class Curvature(Protocol):
    """A symmetric matrix B on the predictions of a batch.

    Attributes:
        linearizations: what a product with it replays.
    """

    linearizations: Sequence[Linearization]

    def multiply(self, vectors: Leaves, *, batched: bool) -> list[Tensor]:
        """B·u; ``batched``: one vector a row."""

    def kept_bytes(self) -> int:
        """Bytes kept for products."""


class Curved(NamedTuple):
    """The loss of a prediction, its gradient by it, and B."""

    value: Tensor
    gradient: Sequence[Tensor]
    curvature: Curvature


class LossCurvature:
    """The Hessian of the loss by the prediction."""

    def __init__(self, linearization: Linearization, leaves: Sequence[Tensor]) -> None:
        self._linearization, self._apart = linearization, leaves
        self.linearizations: Sequence[Linearization] = [linearization]
        everything = tuple(range(len(leaves)))
        self._everything = Selection(everything, everything)

    @staticmethod
    def of(loss_of: LossOf, linearize: Linearize, prediction: Prediction) -> Curved:
        """The loss, its gradient and this, from one evaluation."""

        def gradient_at(leaves: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Any]:
            value = loss_of(prediction, leaves)
            gradient = gradient_to_multiply(value, leaves, keep_graph=False)
            return zeros_where_none(gradient, leaves), value.detach().reshape(())

        given = prediction.rebuilt(prediction.leaves), prediction.target
        linearization = linearize("curvature", gradient_at, prediction.leaves, given)
        curvature = LossCurvature(linearization, prediction.leaves)
        return Curved(linearization.aux, linearization.outputs, curvature)

    def multiply(self, vectors: Leaves, *, batched: bool) -> list[Tensor]:
        """∇²ℓ·u."""
        return self._linearization.rmatvec(vectors, self._everything, batched=batched)

    def kept_bytes(self) -> int:
        """Bytes of what the loss's gradient keeps."""
        return self._linearization.kept_bytes(self._apart)


def loss_and_gradient(objective: Objective, prediction: Prediction) -> tuple[Tensor, list[Tensor]]:
    """The loss of a prediction, and its gradient by the prediction's tensors."""

    def loss_at(leaves: tuple[Tensor, ...]) -> tuple[Leaves, Any]:
        value = objective.loss_of(prediction, leaves)
        return zeros_where_none(gradients((value,), leaves), leaves), value.detach().reshape(())

    found = tape.linearize(loss_at, prediction.leaves, name=objective.name)
    found.close()
    return found.aux, found.outputs


class OuterProducts:
    r"""c·Σ g·gᵀ over samples and draws, where g holds the entries of one sample's score and zeros elsewhere.

    Args:
        scores: for each leaf of the prediction the scores of all samples, draws in front: (draws, \*shape).
        factor: c, with the average over draws in it.
        dim: the dimension, counted from the end, of the entries of a sample; None where a sample is a row, an entry
            of the first dimension. All leaves have the same samples.
    """

    linearizations: Sequence[Linearization] = ()

    def __init__(self, scores: Sequence[Tensor], factor: float, dim: int | None = None) -> None:
        self._scores, self._factor, self._dim = scores, factor, dim

    def multiply(self, vectors: Leaves, *, batched: bool) -> list[Tensor]:
        """c·Σ g·(gᵀu)."""
        # A vector stands in front of the draws, and those in front of the leaf's own dimensions.
        pairs = [
            (score, vector.unsqueeze(1 if batched else 0)) for score, vector in zip(self._scores, vectors, strict=True)
        ]
        # (…, draws, *samples), summed over all leaves: a sample's score reaches across them.
        along = torch.stack([self._within(score * vector, score.dim()) for score, vector in pairs]).sum(0)
        return [
            self._factor * (score * self._spread(along, score.dim())).sum(1 if batched else 0) for score, _ in pairs
        ]

    def _within(self, products: Tensor, dimensions: int) -> Tensor:
        """The sum over the entries of each sample; a row's are all behind the draws and the rows."""
        if self._dim is not None:
            return products.sum(self._dim)
        return products.sum(tuple(range(2 - dimensions, 0))) if dimensions > 2 else products

    def _spread(self, along: Tensor, dimensions: int) -> Tensor:
        """What is one number for each sample, so that it multiplies its entries."""
        if self._dim is not None:
            return along.unsqueeze(self._dim)
        return along.reshape(along.shape + (1,) * (dimensions - 2))

    def kept_bytes(self) -> int:
        """Bytes of the scores."""
        return sum(score.numel() * score.element_size() for score in self._scores)


def sample_dimension(prediction: Tensor, known: Known | None, sample: Sample) -> int | None:
    """Where a prediction has the entries of one sample; None where that is a row.

    Those of a token are cross entropy's classes, or else the last dimension. A lone sample has nothing but classes.
    """
    is_cross_entropy = known is not None and known.kind in ("cross_entropy", "nll")
    if is_cross_entropy and (sample == "token" or prediction.dim() == 1):
        return class_dimension(prediction)
    return -1 if sample == "token" and prediction.dim() > 1 else None


def samples(leaf: Tensor, dim: int | None) -> tuple[int, ...]:
    """The shape of a leaf without the entries of each sample."""
    shape = list(leaf.shape)
    if dim is None:
        return tuple(shape[:1])
    del shape[dim]
    return tuple(shape)


def factor(objective: Objective, prediction: Prediction, reduction: Reduction) -> float:
    """What a batch's loss multiplies the sum of the unreduced losses with: one over their number for a mean.

    A recognized loss says it itself; ``reduction`` and ``weight=`` of the user say how batches are put together.
    """
    terms = objective.recognized_terms(prediction.counted)
    if terms is None:
        terms = prediction.terms
    else:
        assert objective.known is not None
        reduction = "sum" if objective.known.reduction == "sum" else "mean"
    if reduction == "sum":
        return 1.0
    if terms is None:
        raise ValueError(
            f"It cannot be told what the loss given to {objective.name} is a mean over, since some rows have more"
            " labels masked than others. Give weight=, a function of a batch that counts it."
        )
    # A batch in which nothing counts has no mean, and is left out.
    return 1 / (terms or 1.0)
