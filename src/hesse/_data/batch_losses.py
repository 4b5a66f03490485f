"""A model's loss on each batch of its data alone, as a plain function of its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor, nn

from hesse._base import trees
from hesse._base.several_ranks import replicated
from hesse._data import rows
from hesse._data.batches import Batches
from hesse._data.models import Objective
from hesse._data.parameters import Params


class BatchLoss:
    """The loss of one batch by the dict of chosen parameters."""

    def __init__(self, objective: Objective, batch: Any) -> None:
        self._objective, self._batch = objective, batch

    def __call__(self, parameters: dict[str, Tensor]) -> Tensor:
        return self._objective.value([parameters[name] for name in self._objective.model.chosen], self._batch)[0]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The chosen parameters as they are."""
        return {name: leaf.detach() for name, leaf in self._objective.model.chosen.items()}

    @property
    def layout(self) -> tuple[Any, ...]:
        """How the batch nests, and its tensors' dtypes, layouts and shapes: batches of one layout run alike."""
        described = [(tensor.dtype, tensor.layout, tuple(tensor.shape)) for tensor in rows.tensors(self._batch)]
        return (trees.flatten(self._batch)[1].paths, *described)

    def counts(self) -> bool:
        """Whether the batch has a weight: where no target counts, a mean is 0/0, and operators leave the batch out."""
        _, counted = self._objective.value(self._objective.leaves, self._batch)
        return self._objective.count(self._batch, counted) != 0


def losses_of_batches(
    model: nn.Module, loss: Any, data: Any, params: Params, options: Mapping[str, Any], name: str
) -> Generator[BatchLoss]:
    """One function for each batch; ``options`` are those of ``LossHessian``."""
    call, output, weight = options.get("call"), options.get("output"), options.get("weight")
    model, _ = replicated(model, name)
    objective = Objective(name, model, loss, params, call=call, output=output, weight=weight)
    batches = iter(Batches(data, objective.device, name, pairs=objective.known is not None))
    with contextlib.closing(batches):
        for batch in batches:
            yield BatchLoss(objective, batch)
