"""What a rule is: an operator that PyTorch cannot differentiate, and a way to differentiate it.

Nearly every second derivative that PyTorch refuses is one aten operator, ``…_backward``, without a derivative. A rule
gives it one. Values stay PyTorch's own: the operator itself still runs, so forward and first backward keep their
fused kernels, and only the derivative is the rule's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse.rules.pullback import Outputs, pullback
from hesse.rules.scope import inside_transform, intercept

Rewrite = Callable[..., Tensor | Outputs]
"""The operator, arguments and results alike, in operations that PyTorch differentiates as often as one likes."""

Derivative = Callable[[Sequence[Any], Sequence[bool], Outputs], Sequence[Tensor | None]]
"""``derivative(arguments, needed, cotangents)``: cotangentsᵀ · ∂operator/∂arguments, an entry for each argument.

An entry may be None where ``needed`` says that it is not wanted, and where it is zero; a cotangent is None where it
is zero. Entries of a list of tensors count singly, one after the other.
"""

RULES: set[str] = set()
"""The operators with a rule, by full name."""


def rule(name: str, derivative: Derivative | None = None) -> Callable[[Rewrite], Rewrite]:
    """Decorator of a rewrite of the operator ``name``, "aten::name" or "aten::name.overload".

    The rewrite takes every argument of the operator's schema, in order and by position, and returns what the
    operator returns (anything in place of a result that the arguments switch off). It is called for derivatives only.

    ``derivative`` is a faster way to what the rewrite's own derivative is. It need not be differentiable: where it
    has to be, the rewrite serves.
    """

    def register(rewrite: Rewrite) -> Rewrite:
        operator = _overload(name)
        if operator is not None:
            RULES.add(name)
            intercept(name, _kernel(operator, rewrite, derivative))
        return rewrite

    return register


def _overload(name: str) -> torch._ops.OpOverload | None:
    """The operator of that name, or None where this release or build of PyTorch has none."""
    packet, _, overload = name.removeprefix("aten::").partition(".")
    found: torch._ops.OpOverload | None = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    return found


def _kernel(operator: torch._ops.OpOverload, rewrite: Rewrite, derivative: Derivative | None) -> Callable[..., Any]:
    """What is called in the operator's place: the operator, with a derivative."""
    parameters = operator._schema.arguments
    function: Any = _function(operator, rewrite, derivative)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return operator(*args, **kwargs)
        arguments = list(args)
        for parameter in parameters[len(args) :]:
            # The dispatcher leaves out arguments that have their default values.
            given = parameter.name in kwargs
            arguments.append(kwargs[parameter.name] if given else parameter.default_value)
        leaves, lengths = _flat(arguments)
        return function.apply(lengths, *leaves)

    return kernel


def _function(
    operator: torch._ops.OpOverload, rewrite: Rewrite, derivative: Derivative | None
) -> type[torch.autograd.Function]:
    names = [parameter.name for parameter in operator._schema.arguments]
    positional = sum([not parameter.kwarg_only for parameter in operator._schema.arguments])

    def forward(lengths: Lengths, *leaves: Any) -> Any:
        arguments = _nested(leaves, lengths)
        named = zip(names[positional:], arguments[positional:], strict=True)
        return operator(*arguments[:positional], **dict(named))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.lengths, *leaves = inputs
        ctx.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        ctx.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        ctx.save_for_backward(*[leaves[place] for place in ctx.places])

    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        leaves = list(ctx.leaves)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            leaves[place] = tensor
        needed = ctx.needs_input_grad[1:]
        if derivative is not None and not torch.is_grad_enabled() and not inside_transform():
            arguments = _nested(leaves, ctx.lengths)
            return None, *derivative(arguments, needed, cotangents)
        places = [place for place in ctx.places if needed[place]]
        found = pullback(lambda *leaves: rewrite(*_nested(leaves, ctx.lengths)), leaves, places, cotangents)
        grads: list[Tensor | None] = [None] * len(leaves)
        for place, grad in zip(places, found, strict=True):
            grads[place] = grad
        return None, *grads

    members = {
        # PyTorch batches what these do where a transform asks for it.
        "generate_vmap_rule": True,
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
    }
    return type(operator._opname, (torch.autograd.Function,), members)


Lengths = tuple[int | None, ...]
"""For each argument the number of its tensors if it is a list of them, else None."""


def _flat(arguments: Sequence[Any]) -> tuple[list[Any], Lengths]:
    """The arguments with lists of tensors spread out: autograd follows no tensor in a list."""
    leaves: list[Any] = []
    lengths: list[int | None] = []
    for argument in arguments:
        if isinstance(argument, list) and any(isinstance(entry, Tensor) for entry in argument):
            leaves += argument
            lengths.append(len(argument))
        else:
            leaves.append(argument)
            lengths.append(None)
    return leaves, tuple(lengths)


def _nested(leaves: Sequence[Any], lengths: Lengths) -> list[Any]:
    remaining = iter(leaves)
    return [next(remaining) if length is None else [next(remaining) for _ in range(length)] for length in lengths]
