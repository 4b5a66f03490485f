"""The derivative of a rewrite: written once, and as often differentiable as the operations in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse.rules.scope import inside_transform

Outputs = Sequence[Tensor | None]


def pullback(
    function: Callable[..., Tensor | Outputs], arguments: Sequence[Any], places: Sequence[int], cotangents: Outputs
) -> list[Tensor | None]:
    """cotangentsᵀ · ∂function/∂arguments at ``places``, None where nothing is connected.

    The result is differentiable by arguments and cotangents where gradients are enabled.
    """

    def outputs_at(*variables: Tensor) -> tuple[Tensor, ...]:
        replaced = list(arguments)
        for place, variable in zip(places, variables, strict=True):
            replaced[place] = variable
        outputs = function(*replaced)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(
            [
                output
                for output, cotangent in zip(outputs, cotangents, strict=True)
                if output is not None and cotangent is not None
            ]
        )

    given = tuple([cotangent for cotangent in cotangents if cotangent is not None])
    variables = [arguments[place] for place in places]
    if inside_transform():
        # torch.autograd.grad refuses tensors that a transform batches, and torch.func the hooks of a checkpoint.
        return list(torch.func.vjp(outputs_at, *variables)[1](given))
    connected = torch.is_grad_enabled()
    with torch.enable_grad():
        # New objects, so that what is differentiated here is this use of an argument and no other.
        followed = [
            variable.view_as(variable) if connected else variable.detach().requires_grad_() for variable in variables
        ]
        pairs = [pair for pair in zip(outputs_at(*followed), given, strict=True) if pair[0].requires_grad]
        if not pairs:
            return [None] * len(places)
        outputs, vectors = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, followed, vectors, create_graph=connected, allow_unused=True))
