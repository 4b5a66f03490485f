"""What is summed over the data: how a batch becomes a prediction and a loss, at any values of the variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._data.losses import Known


class Counted(NamedTuple):
    """What it takes, beside a batch, to count the terms that its loss is the mean of.

    Attributes:
        shape: of the prediction, where that is one tensor.
        target: what the prediction is compared with.
    """

    shape: tuple[int, ...] | None = None
    target: Any = None


class Prediction(NamedTuple):
    """What the model makes of a batch, in a form that a program can return: tensors, and values of Python.

    Attributes:
        leaves: the floating-point tensors of it.
        places: where those stand among all leaves.
        others: all leaves, with None in those places.
        spec: its structure.
        counted: with the target in it.
        terms: how many the loss is the mean of, once that was looked up.
    """

    leaves: list[Tensor]
    places: list[int]
    others: list[Any]
    spec: Spec
    counted: Counted
    terms: float | None = None

    @property
    def target(self) -> Any:
        """What it is compared with."""
        return self.counted.target

    def rebuilt(self, leaves: Sequence[Tensor]) -> Any:
        """The prediction with other tensors in the place of its floating-point ones."""
        full = list(self.others)
        for place, leaf in zip(self.places, leaves, strict=True):
            full[place] = leaf
        return self.spec.rebuild(full)


class Objective(Protocol):
    """The loss of a batch as a function of variables x.

    Attributes:
        leaves, spec: the variables at the point, and their structure.
        name: the operator that errors speak of.
        known: the loss, where it is one of PyTorch's own.
        device: where batches belong; None to leave them where they are.
    """

    leaves: list[Tensor]
    spec: Spec
    name: str
    known: Known | None
    device: torch.device | None

    def move(self, leaves: list[Tensor]) -> None:
        """To other values of the variables."""
        ...

    def value(self, x: Sequence[Tensor], batch: Any) -> tuple[Tensor, Counted]:
        """The loss of a batch, and what its terms are counted by."""
        ...

    def count(self, batch: Any, counted: Counted) -> float | None:
        """How many terms the loss of a batch is the mean of, if that can be told; this reads values of tensors."""
        ...

    def predict(self, x: Sequence[Tensor], batch: Any) -> Prediction:
        """The prediction for a batch."""
        ...

    def loss_of(self, prediction: Prediction, leaves: Sequence[Tensor]) -> Tensor:
        """The loss of a prediction with other tensors in the place of its floating-point ones."""
        ...

    def reads(self) -> dict[str, Any]:
        """By name, all that is read beside the batch and the variables."""
        ...

    def layers(self) -> dict[str, Any]:
        """By name, what the modules of the model and the loss are."""
        ...

    def stated_reduction(self) -> str | None:
        """What the loss says of its reduction, if it does."""
        ...

    def batch_statistics(self) -> str | None:
        """A layer that makes the rows of a batch act on each other, if there is one."""
        ...

    def tensors(self) -> Iterable[Tensor]:
        """All parameters and buffers that are the same on all ranks, chosen or not."""
        ...

    def space(self) -> Space:
        """The vectors of the variables."""
        ...

    def require_same_mode(self) -> None:
        """Raise if a layer was switched between training and evaluation since this was made."""
        ...


def require_scalar(value: Any, name: str) -> Tensor:
    """The loss, or one sentence that says why it is none."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"The loss given to {name} should return a Tensor with a single element but returned {type(value)}."
        )
    if value.numel() != 1:
        raise ValueError(
            f"The loss given to {name} should return a Tensor with a single element but returned one of shape"
            f" {tuple(value.shape)}. Reduce it, as by reduction='mean'."
        )
    if not value.dtype.is_floating_point:
        raise TypeError(f"The loss given to {name} should be real and floating-point but has dtype {value.dtype}.")
    return value
