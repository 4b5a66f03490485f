"""The blocks as operators of PyTorch: a traced program has a call of them in it, and not every block.

Without that, a program of a long sequence would hold thousands of small operations, and shapes would be fixed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.attention import blocks
from hesse._rules.attention.blocks import Directions, Gradients, Kept, Tangents
from hesse._rules.batches import sample_by_sample

_KEPT = (
    "Tensor cotangent, Tensor query, Tensor key, Tensor value, Tensor output, Tensor? mask,"
    " bool is_causal, float? scale"
)
_GRADIENTS = f"attention_gradients({_KEPT}) -> (Tensor, Tensor, Tensor)"
_TANGENTS = (
    f"attention_tangents({_KEPT}, Tensor? cotangent_direction, Tensor? query_direction,"
    " Tensor? key_direction, Tensor? value_direction, bool only_output) -> (Tensor, Tensor, Tensor, Tensor)"
)

_library = torch.library.Library("hesse", "DEF")  # type: ignore[no-untyped-call]  # no types there


def gradients(kept: Kept) -> Gradients:
    """:func:`hesse._rules.attention.blocks.gradients`, as an operator."""
    return Gradients(*torch.ops.hesse.attention_gradients(*kept))


def tangents(kept: Kept, directions: Directions, *, only_output: bool = False) -> Tangents:
    """:func:`hesse._rules.attention.blocks.tangents`, as an operator."""
    return Tangents(*torch.ops.hesse.attention_tangents(*kept, *directions, only_output))


def _gradients(*arguments: object) -> tuple[Tensor, ...]:
    return tuple(blocks.gradients(Kept(*arguments)))  # type: ignore[arg-type]  # by the schema


def _tangents(*arguments: object) -> tuple[Tensor, ...]:
    *entries, only_output = arguments
    kept, directions = Kept(*entries[:8]), Directions(*entries[8:])  # type: ignore[arg-type]  # by the schema
    return tuple(blocks.tangents(kept, directions, only_output=bool(only_output)))


def _gradients_of_shape(
    cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: object
) -> Sequence[Tensor]:
    """Empty results, in memory as the blocks leave them."""
    by_key, by_value = [tensor.mT.new_empty(tensor.mT.shape).mT for tensor in (key, value)]
    return query.new_empty(query.shape), by_key, by_value


def _tangents_of_shape(
    cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, *rest: object
) -> Sequence[Tensor]:
    return output.new_empty(output.shape), *_gradients_of_shape(cotangent, query, key, value)


def _define(schema: str, values: Callable[..., object], shapes: Callable[..., object]) -> None:
    name = schema.partition("(")[0]
    _library.define(schema)  # type: ignore[no-untyped-call]  # no types there
    _library.impl(name, values, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]  # as above
    torch.library.register_fake(f"hesse::{name}", shapes, lib=_library)
    operator = getattr(torch.ops.hesse, name).default

    def batched(info: Any, in_dims: Sequence[int | None], *arguments: object) -> object:
        return sample_by_sample(operator, info.batch_size, in_dims, arguments)

    torch.library.register_vmap(f"hesse::{name}", batched, lib=_library)


_define(_GRADIENTS, _gradients, _gradients_of_shape)
_define(_TANGENTS, _tangents, _tangents_of_shape)
