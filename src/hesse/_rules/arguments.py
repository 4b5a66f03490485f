"""The arguments of an operator, as the dispatcher hands them over and as torch.autograd.Function wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Leaves(NamedTuple):
    """Arguments with lists of tensors spread out, since autograd follows no tensor inside of a list.

    ``lengths`` has for each argument the number of its tensors if it is a list of them, else None.
    """

    entries: list[Any]
    lengths: tuple[int | None, ...]


def leaves_of(operator: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Leaves:
    """The leaves of a call, with every argument of the schema in its order.

    The dispatcher leaves out arguments that have their default values.
    """
    entries = list(args)
    for parameter in operator._schema.arguments[len(args) :]:
        entries.append(kwargs.get(parameter.name, parameter.default_value))
    leaves: list[Any] = []
    lengths: list[int | None] = []
    for entry in entries:
        listed = isinstance(entry, list) and any(isinstance(part, Tensor) for part in entry)
        leaves += entry if listed else [entry]
        lengths.append(len(entry) if listed else None)
    return Leaves(leaves, tuple(lengths))


def nested(leaves: Iterable[Any], lengths: Sequence[int | None]) -> list[Any]:
    """The arguments that the leaves were made of."""
    remaining = iter(leaves)
    return [next(remaining) if length is None else [next(remaining) for _ in range(length)] for length in lengths]


def call(operator: torch._ops.OpOverload, arguments: Sequence[Any]) -> Any:
    """The operator called with every argument of its schema."""
    parameters = operator._schema.arguments
    positional = [entry for entry, parameter in zip(arguments, parameters, strict=True) if not parameter.kwarg_only]
    named = {
        parameter.name: entry for entry, parameter in zip(arguments, parameters, strict=True) if parameter.kwarg_only
    }
    return operator(*positional, **named)


def save(ctx: Any, entries: Sequence[Any]) -> None:
    """Keep entries for derivatives: tensors where autograd looks after them, others beside."""
    ctx.others = [None if isinstance(entry, Tensor) else entry for entry in entries]
    ctx.places = [place for place, entry in enumerate(entries) if isinstance(entry, Tensor)]
    tensors = [entries[place] for place in ctx.places]
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def saved(ctx: Any) -> list[Any]:
    """The entries that :func:`save` kept."""
    entries = list(ctx.others)
    for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
        entries[place] = tensor
    return entries
