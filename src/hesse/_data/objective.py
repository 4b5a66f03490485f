"""What a model makes of a batch: a prediction, what counts its terms, and a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from hesse._base.trees import Spec


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
