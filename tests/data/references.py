"""Dense float64 matrices of a loss on one large batch, by torch.autograd.functional alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def flat_function(
    model: nn.Module, names: list[str], function: Callable[[Callable[..., Any]], Tensor]
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """``function`` of the model's call, as a function of the named parameters in one flat vector; and that vector."""
    parameters = dict(model.named_parameters())
    point = torch.cat([parameters[name].detach().reshape(-1) for name in names])

    def at(flat: Tensor) -> Tensor:
        pieces = flat.split([parameters[name].numel() for name in names])
        state = {name: piece.reshape(parameters[name].shape) for name, piece in zip(names, pieces, strict=True)}

        def call(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(model, state, args, kwargs)

        return function(call)

    return at, point


def trainable(model: nn.Module) -> list[str]:
    """Names of the parameters that require gradients."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def hessian(model: nn.Module, function: Callable[..., Tensor], names: list[str] | None = None) -> Tensor:
    """∇² of a function of the model's call, by the named parameters."""
    at, point = flat_function(model, names or trainable(model), function)
    return torch.autograd.functional.hessian(at, point)


def jacobian(model: nn.Module, function: Callable[..., Tensor], names: list[str] | None = None) -> Tensor:
    """The Jacobian of a function of the model's call, (*outputs, n)."""
    at, point = flat_function(model, names or trainable(model), function)
    return torch.autograd.functional.jacobian(at, point)


def of_its_own(model: nn.Module, function: Callable[[nn.Module], Tensor]) -> Tensor:
    """∇² of a function of a model by the model's own parameters, which stay the objects that they are."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(function(model), parameters, create_graph=True)
    flat = torch.cat([part.reshape(-1) for part in gradient])
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for entry in flat
    ]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
