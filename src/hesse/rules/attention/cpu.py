"""Attention's fused kernel on the CPU; PyTorch keeps to it without dropout and without a mask to differentiate by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hesse.rules.attention import formula
from hesse.rules.attention.blocks import Directions, Kept, tangents
from hesse.rules.pullback import Outputs
from hesse.rules.rule import rule


def derivative(arguments: Sequence[Any], needed: Sequence[bool], cotangents: Outputs) -> list[Tensor | None]:
    """The cotangents pulled back to cotangent, query, key and value."""
    cotangent, query, key, value, output, statistics, _, is_causal, mask, scale = arguments
    kept = Kept(cotangent, query, key, value, output, statistics, mask, is_causal, scale)
    found = tangents(kept, Directions(None, *cotangents), only_output=not any(needed[1:4]))
    return [*found, *[None] * 6]


@rule("aten::_scaled_dot_product_flash_attention_for_cpu_backward", derivative)
def flash_attention_for_cpu_backward(
    cotangent: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    statistics: Tensor,
    dropout: float,
    is_causal: bool,
    mask: Tensor | None,
    scale: float | None,
) -> tuple[Tensor, ...]:
    """The gradients by query, key and value. Output and statistics are what the inputs make of them."""
    return formula.gradient(cotangent, query, key, value, mask, is_causal, scale)[:3]
