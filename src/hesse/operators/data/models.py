"""From a user's model and loss to what is summed, and to what must not change meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from hesse.functional.captured import captured
from hesse.operators.data.losses import Weight
from hesse.operators.data.objective import Call, ModelObjective, Output
from hesse.operators.data.parameters import Model, Params, select


def model_objective(
    name: str,
    model: nn.Module,
    loss: Any,
    params: Params,
    *,
    call: Call | None = None,
    output: Output | None = None,
    weight: Weight | None = None,
    predicts: bool = False,
) -> ModelObjective:
    """The loss of a batch as a function of the model's chosen parameters as they are now."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model given to {name} should be a torch.nn.Module but has type {type(model)}.")
    if call is not None and output is not None:
        raise TypeError(f"{name} takes call= or output=, which both say what the loss of a batch is, but got both.")
    return ModelObjective(
        Model(model, select(model, params, name)),
        loss,
        call=call,
        output=output,
        weight=weight,
        predicts=predicts,
        name=name,
    )


def watched(model: nn.Module, *functions: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the point: the model's, and what the loss and other functions capture."""
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield f"The model's {key!r}", tensor
    for function in functions:
        if function is not None:
            yield from captured(function)
