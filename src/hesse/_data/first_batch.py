"""A model's loss on the first batch of its data, as a plain function of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from hesse._data.batches import Batches
from hesse._data.models import model_objective
from hesse._data.parameters import Params


def loss_of_first_batch(
    model: nn.Module, loss: Any, data: Any, params: Params, options: Mapping[str, Any], name: str
) -> tuple[Callable[[dict[str, Tensor]], Tensor], dict[str, Tensor]]:
    """``func(parameters)`` and the dict of parameters as they are; ``options`` are those of ``LossHessian``."""
    call, output, weight = options.get("call"), options.get("output"), options.get("weight")
    objective = model_objective(name, model, loss, params, call=call, output=output, weight=weight)
    batch, _ = Batches(data, objective.device, name, pairs=objective.known is not None).first()
    keys = list(objective.model.chosen)

    def func(parameters: dict[str, Tensor]) -> Tensor:
        x = [parameters[key] for key in keys]
        return objective.value(x, batch)[0]

    return func, {key: leaf.detach() for key, leaf in zip(keys, objective.leaves, strict=True)}
