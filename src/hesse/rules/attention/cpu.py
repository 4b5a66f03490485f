"""Attention's fused kernel on the CPU; PyTorch keeps to it without dropout and without a mask to differentiate by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hesse.rules.attention import formula
from hesse.rules.attention.blocks import Directions, Kept, tangents
from hesse.rules.pullback import Outputs
from hesse.rules.rule import Faster, rule


def _kept(arguments: Sequence[Any]) -> Kept:
    cotangent, query, key, value, output, statistics, _, is_causal, mask, scale = arguments
    return Kept(cotangent, query, key, value, output, statistics, mask, is_causal, scale)


def derivative(arguments: Sequence[Any], wanted: Sequence[bool], cotangents: Outputs) -> Outputs:
    """The cotangents pulled back to cotangent, query, key and value."""
    found = tangents(_kept(arguments), Directions(None, *cotangents), only_output=not any(wanted[1:4]))
    return [*found, *[None] * 6]


def tangent(arguments: Sequence[Any], directions: Outputs) -> Outputs:
    """The tangents of the gradients by query, key and value."""
    return tangents(_kept(arguments), Directions(*directions[:4]))[1:]


@rule("aten::_scaled_dot_product_flash_attention_for_cpu_backward", Faster(derivative, tangent))
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
