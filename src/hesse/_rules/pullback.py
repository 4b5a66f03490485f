"""The derivative of a rewrite, either way: written once, and as often differentiable as the operations in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.forward_mode import jvp
from hesse._rules.scope import inside_transform

Outputs = Sequence[Tensor | None]


def another(variable: Tensor) -> Tensor:
    """A new object with the same values and history."""
    # Sparse tensors have no views.
    return variable.view_as(variable) if variable.layout is torch.strided else variable.clone()


def pullback(
    function: Callable[..., Tensor | Outputs], arguments: Sequence[Any], places: Sequence[int], cotangents: Outputs
) -> list[Tensor | None]:
    """cotangentsᵀ · ∂function/∂arguments at ``places``, None where nothing is connected.

    The result is differentiable by arguments and cotangents where gradients are enabled.
    """
    chosen: list[int] = []

    def outputs_at(*variables: Tensor) -> tuple[Tensor, ...]:
        outputs = _outputs_at(function, arguments, places, variables)
        pairs = enumerate(zip(outputs, cotangents, strict=True))
        connected = {i: output for i, (output, cotangent) in pairs if output is not None and cotangent is not None}
        chosen[:] = connected
        return tuple(connected.values())

    variables = [arguments[place] for place in places]
    if inside_transform():
        # torch.autograd.grad refuses tensors that a transform batches, and torch.func the hooks of a checkpoint.
        pull = torch.func.vjp(outputs_at, *variables)[1]
        return list(pull(tuple([cotangents[i] for i in chosen])))
    connected = torch.is_grad_enabled()
    with torch.enable_grad():
        # New objects, so that what is differentiated here is this use of an argument and no other.
        followed = [another(variable) if connected else variable.detach().requires_grad_() for variable in variables]
        outputs = outputs_at(*followed)
        pairs = [(output, cotangents[i]) for output, i in zip(outputs, chosen, strict=True) if output.requires_grad]
        if not pairs:
            return [None] * len(places)
        return list(
            torch.autograd.grad(
                [output for output, _ in pairs],
                followed,
                [cotangent for _, cotangent in pairs],
                create_graph=connected,
                allow_unused=True,
            )
        )


def pushforward(
    function: Callable[..., Tensor | Outputs],
    arguments: Sequence[Any],
    places: Sequence[int],
    tangents: Sequence[Tensor],
) -> list[Tensor | None]:
    """∂function/∂arguments at ``places`` · tangents, an entry for each output, None where that is None."""
    found: list[Tensor | None] = []

    def outputs_at(*variables: Tensor) -> tuple[Tensor, ...]:
        found[:] = _outputs_at(function, arguments, places, variables)
        return tuple([output for output in found if output is not None])

    primals = tuple([arguments[place] for place in places])
    products = iter(jvp(outputs_at, primals, tuple(tangents))[1])
    return [None if output is None else next(products) for output in found]


def _outputs_at(
    function: Callable[..., Tensor | Outputs],
    arguments: Sequence[Any],
    places: Sequence[int],
    variables: Sequence[Tensor],
) -> Outputs:
    replaced = list(arguments)
    for place, variable in zip(places, variables, strict=True):
        replaced[place] = variable
    outputs = function(*replaced)
    return (outputs,) if isinstance(outputs, Tensor) else outputs
