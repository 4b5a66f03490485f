"""The loss of the output of a plain function, as what is summed over data of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.arguments import Point
from hesse._base import trees
from hesse._data.losses import Known
from hesse._data.objective import Counted, Prediction, require_scalar
from hesse._distributed.unsupported import refusing_models


class FunctionObjective:
    """The loss of the output of a plain function, as a function of its inputs; it has one batch, of nothing."""

    def __init__(self, point: Point, func: Callable[..., Any], loss: Callable[..., Any] | None, name: str) -> None:
        self.leaves, self.spec = point.leaves, point.spec
        self.name = name
        self.known: Known | None = None
        self.device: torch.device | None = None
        self._point, self._func, self._loss = point, func, loss

    def within(self, x: Sequence[Tensor], thunk: Callable[[], Any]) -> Any:
        """``thunk()``."""
        return thunk()

    replay = within

    def require_followed(self, outputs: Sequence[Tensor]) -> None:
        """Nothing: what a function captures is a constant."""

    def stated_reduction(self) -> str | None:
        """There is one batch, so it does not matter."""
        return "sum"

    def batch_statistics(self) -> str | None:
        """None: there are no rows."""
        return None

    def require_same_mode(self) -> None:
        """Nothing: a function has no mode."""

    def value(self, x: Sequence[Tensor], batch: Any) -> tuple[Tensor, Counted]:
        """The loss at the inputs x."""
        prediction = self.predict(x, batch)
        return self.loss_of(prediction, prediction.leaves), prediction.counted

    def count(self, batch: Any, counted: Counted) -> float | None:
        """One: there is one batch, of nothing."""
        return 1.0

    def predict(self, x: Sequence[Tensor], batch: Any) -> Prediction:
        """The output at the inputs x."""
        output = self._point.call(x)
        leaves, spec = trees.flatten(output)
        for leaf in leaves:
            if not (isinstance(leaf, Tensor) and leaf.dtype.is_floating_point):
                what = leaf.dtype if isinstance(leaf, Tensor) else type(leaf)
                raise TypeError(
                    f"The function given to {self.name} should return real floating-point tensors but gave {what}."
                )
        return Prediction(leaves, list(range(len(leaves))), [None] * len(leaves), spec, Counted())

    def loss_of(self, prediction: Prediction, leaves: Sequence[Tensor]) -> Tensor:
        """The loss of an output with other tensors in the place of its own."""
        if self._loss is None:
            return torch.stack([0.5 * leaf.square().sum() for leaf in leaves]).sum()
        loss = refusing_models(self.name, self._loss)
        return require_scalar(loss(prediction.rebuilt(leaves)), self.name)

    def reads(self) -> dict[str, Any]:
        """By name, the function and the loss, and what they capture."""
        return {"the function": self._func, "the loss": self._loss}
