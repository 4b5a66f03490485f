"""The blocks as one operator of PyTorch: a traced program has a call of them in it, and not every block.

Without that, a program of a long sequence would hold thousands of small operations, and shapes would be fixed in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hesse.rules.attention import blocks
from hesse.rules.attention.blocks import Directions, Kept, Tangents

_SCHEMA = (
    "attention_tangents(Tensor cotangent, Tensor query, Tensor key, Tensor value, Tensor output, Tensor? mask,"
    " bool is_causal, float? scale, Tensor? cotangent_direction, Tensor? query_direction,"
    " Tensor? key_direction, Tensor? value_direction, bool only_output) -> (Tensor, Tensor, Tensor, Tensor)"
)

_library = torch.library.Library("hesse", "DEF")  # type: ignore[no-untyped-call]  # no types there
_library.define(_SCHEMA)  # type: ignore[no-untyped-call]  # as above


def tangents(kept: Kept, directions: Directions, *, only_output: bool = False) -> Tangents:
    """:func:`hesse.rules.attention.blocks.tangents`, as an operator."""
    return Tangents(*torch.ops.hesse.attention_tangents(*kept, *directions, only_output))


def _tangents(*arguments: object) -> tuple[Tensor, ...]:
    *entries, only_output = arguments
    kept, directions = Kept(*entries[:8]), Directions(*entries[8:])  # type: ignore[arg-type]  # by the schema
    return tuple(blocks.tangents(kept, directions, only_output=bool(only_output)))


def _shapes(
    cotangent: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, *rest: object
) -> Sequence[Tensor]:
    """Empty results, in memory as the blocks leave them."""
    by_key, by_value = [tensor.mT.new_empty(tensor.mT.shape).mT for tensor in (key, value)]
    return output.new_empty(output.shape), query.new_empty(query.shape), by_key, by_value


_library.impl("attention_tangents", _tangents, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]  # as above
torch.library.register_fake("hesse::attention_tangents", _shapes, lib=_library)
