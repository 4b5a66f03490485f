"""Terms: the symmetric matrix of one function or batch at a kept point, composed of linearizations.

A term is a Hessian, the Jacobian of a gradient; or JᵀBJ, with J the Jacobian of a prediction and B a matrix on
predictions. An operator at a point is a weighted sum of terms (``point.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hesse._data.curvatures import Curved
from hesse._data.maps import GradientMap, PredictionMap
from hesse._data.models import Objective
from hesse._data.objective import Prediction
from hesse._linearize.engines import Linearize
from hesse._linearize.protocol import Leaves, Linearization, Selection


class Part(NamedTuple):
    """Which leaves of a vector are given and which of the product are wanted, by position in ascending order."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def whole(count: int) -> Part:
        """All of so many leaves, of both."""
        everything = tuple(range(count))
        return Part(everything, everything)


class Term(Protocol):
    """The matrix of one function or batch at the kept point.

    Attributes:
        count: how many samples or tokens that loss is the mean of; None where it cannot be told.
        linearizations: what a product replays.
    """

    count: float | None
    linearizations: Sequence[Linearization]

    @property
    def value(self) -> Tensor:
        """The loss."""

    @property
    def gradient(self) -> Sequence[Tensor]:
        """The gradient of the loss, as leaves."""

    def multiply(
        self, vectors: Leaves, part: Part, *, transposed: bool = False, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """The leaves ``part.targets`` of A·v, or Aᵀ·v, for a vector with the leaves ``part.sources``.

        Args:
            batched: one vector a row.
            last: no other product follows, so that what is kept is freed on the way.
        """

    def release_gradient(self) -> int:
        """Let go of the gradient, where it is kept beside what products need; its bytes."""

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes kept for products, without the memory of the variables and of the tensors ``beside``."""


class HessianTerm:
    """The Hessian of a function: one linearization, that of its gradient; the value comes first in its ``aux``."""

    def __init__(self, linearization: Linearization, variables: Sequence[Tensor], count: float | None = 1.0) -> None:
        self._linearization, self._variables = linearization, variables
        self.linearizations: Sequence[Linearization] = [linearization]
        self.count = count

    @staticmethod
    def of(objective: Objective, linearize: Linearize, batch: Any, part: Hashable = None) -> HessianTerm:
        """For a batch of data; by the variables and, where a part of the batch is named, by that after them."""
        point = objective.leaves if part is None else [*objective.leaves, batch[part]]
        linearization = linearize("gradient", GradientMap(objective, batch, part), point, batch)
        value, counted = linearization.aux
        # A target of its own, which a program copies, is needed no more.
        linearization.aux = value, None
        return HessianTerm(linearization, objective.leaves, objective.count(batch, counted))

    @property
    def value(self) -> Tensor:
        """The loss, which was found on the way."""
        value: Tensor = self._linearization.aux[0]
        return value

    @property
    def gradient(self) -> Sequence[Tensor]:
        """The gradient, which was found on the way."""
        return self._linearization.outputs[: len(self._variables)]

    def multiply(
        self, vectors: Leaves, part: Part, *, transposed: bool = False, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """H·v: one backward through the gradient's graph, or one replay of a program.

        The Jacobian of a gradient is symmetric, and the product with its transpose costs one backward less.
        """
        # Without the constructor, which is a call of Python's.
        selection = tuple.__new__(Selection, part)
        return self._linearization.rmatvec(vectors, selection, batched=batched, last=last)

    def release_gradient(self) -> int:
        """It was found on the way, and products need its place in the graph alone."""
        released = _size(self._linearization.outputs)
        self._linearization.release_outputs()
        return released

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that are kept alive for products, and the gradient's."""
        return self._linearization.kept_bytes([*self._variables, *beside]) + _size(self.gradient)


class OuterTerm:
    """JᵀBJ: J the Jacobian of a prediction, B a matrix on predictions.

    Args:
        jacobian: the linearized prediction.
        variables: what it is differentiated by.
        curved: the loss, its gradient by the prediction, and B.
        count: how many samples or tokens the loss is the mean of.
    """

    def __init__(
        self, jacobian: Linearization, variables: Sequence[Tensor], curved: Curved, count: float | None = 1.0
    ) -> None:
        self._jacobian, self._variables = jacobian, variables
        self.value, self._output_gradient, self._curvature = curved
        self.count = count
        self.linearizations: Sequence[Linearization] = [jacobian, *self._curvature.linearizations]
        self._outputs = tuple(range(len(jacobian.outputs)))
        self._is_multiplied = False

    @staticmethod
    def of(objective: Objective, linearize: Linearize, batch: Any, curve: Callable[[Prediction], Curved]) -> OuterTerm:
        """For a batch of data; ``curve`` makes B of the prediction."""
        jacobian = linearize("prediction", PredictionMap(objective, batch), objective.leaves, batch)
        predicted: Prediction = jacobian.aux
        jacobian.aux = None
        count = objective.count(batch, predicted.counted)
        # Laid out alike whichever engine predicts, so that one program of the loss serves.
        jacobian.outputs = [output.contiguous() for output in jacobian.outputs]
        curved = curve(predicted._replace(leaves=jacobian.outputs, terms=count))
        return OuterTerm(jacobian, objective.leaves, curved, count)

    @property
    def gradient(self) -> Sequence[Tensor]:
        """Jᵀ times the gradient of the loss by the prediction: one backward."""
        variables = tuple(range(len(self._variables)))
        return self._jacobian.rmatvec(self._output_gradient, Selection(self._outputs, variables))

    def multiply(
        self, vectors: Leaves, part: Part, *, transposed: bool = False, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """Jᵀ·B·J·v."""
        self._is_multiplied = True
        outputs = self._outputs
        pushed = self._jacobian.matvec(vectors, Selection(outputs, part.sources), batched=batched, last=last)
        cotangents = self._curvature.multiply(pushed, batched=batched)
        return self._jacobian.rmatvec(cotangents, Selection(outputs, part.targets), batched=batched, last=last)

    def release_gradient(self) -> int:
        """It is made when it is asked for."""
        return 0

    def kept_bytes(self, beside: Sequence[Tensor]) -> int:
        """Bytes that the prediction's graph, that of Jᵀw and B keep alive."""
        if not self._is_multiplied and self._jacobian.engine == "tape":
            # The first product makes the graph of Jᵀw, which is then kept too.
            variables = tuple(range(len(self._variables)))
            self.multiply([torch.zeros_like(leaf) for leaf in self._variables], Part(variables, variables))
        return (
            self._jacobian.kept_bytes([*self._variables, *beside])
            + _size(self._jacobian.outputs)
            + self._curvature.kept_bytes()
        )


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
