"""PyTorch's fused kernels of attention, on the CPU and on CUDA devices: flash, memory-efficient and cuDNN attention.

Their backward operators compute the same gradients of the same arguments, which come in another order from each; the
names in the operator's schema say which is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.attention.blocks import Directions, Kept
from hesse._rules.attention.formula import gradient
from hesse._rules.attention.operator import gradients, tangents
from hesse._rules.attention.products import outruns_kernels
from hesse._rules.pullback import Outputs
from hesse._rules.rule import Faster, rule
from hesse._rules.scope import operator_of

CPU = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
EFFICIENT = "aten::_scaled_dot_product_efficient_attention_backward"
FLASH = "aten::_scaled_dot_product_flash_attention_backward"
CUDNN = "aten::_scaled_dot_product_cudnn_attention_backward"


class _Kernel:
    """The rule of one kernel: a rewrite of its backward operator, and faster ways to that one's derivative."""

    def __init__(self, name: str, operator: torch._ops.OpOverload) -> None:
        self.name = name
        self._places = {parameter.name: place for place, parameter in enumerate(operator._schema.arguments)}
        cotangent = "grad_out_" if "grad_out_" in self._places else "grad_out"
        self._mask = "attn_mask" if "attn_mask" in self._places else "attn_bias"
        self._variables = [self._places[name] for name in (cotangent, "query", "key", "value")]
        # One kernel gives the gradient by an additive mask as well.
        self._differentiates_mask = len(operator._schema.returns) == 4

    def _kept(self, arguments: Sequence[Any]) -> Kept:
        """What the kernel was given, or one sentence on what of it has no derivative here."""
        named = {name: arguments[place] for name, place in self._places.items()}
        cotangent, query, key, value = [arguments[place] for place in self._variables]
        if named["dropout_p"]:
            self._refuse("with dropout, since its mask stays inside of the kernel")
        if named["is_causal"] and self.name in (FLASH, CUDNN) and query.shape[2] != key.shape[2]:
            self._refuse("for causal attention over another number of keys than queries, where kernels may differ")
        return Kept(
            cotangent,
            query,
            key,
            value,
            named["out"],
            named.get(self._mask),
            named["is_causal"],
            named["scale"],
        )

    def _refuse(self, why: str) -> None:
        raise NotImplementedError(
            f"{self.name} cannot be differentiated {why}. Call attention within"
            " torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
        )

    def rewrite(self, *arguments: Any) -> Outputs:
        """The gradients by query, key and value, and by the mask where the kernel gives that."""
        kept = self._kept(arguments)
        found = gradient(kept.cotangent, kept.query, kept.key, kept.value, kept.mask, kept.is_causal, kept.scale)
        return found if self._differentiates_mask else found[:3]

    def values(self, arguments: Sequence[Any]) -> Outputs | None:
        """The gradients in blocks, where those are faster than the kernel."""
        if self._differentiates_mask or not outruns_kernels(arguments[self._places["key"]]):
            return None
        return gradients(self._kept(arguments))

    def derivative(self, arguments: Sequence[Any], wanted: Sequence[bool], cotangents: Outputs) -> Outputs | None:
        """The gradients' cotangents pulled back, in blocks; not by the mask, which is as large as all blocks."""
        if self._differentiates_mask and (cotangents[3] is not None or wanted[self._places[self._mask]]):
            return None
        only_output = not any([wanted[place] for place in self._variables[1:]])
        found = tangents(self._kept(arguments), Directions(None, *cotangents[:3]), only_output=only_output)
        by_place: dict[int, Tensor] = dict(zip(self._variables, found, strict=True))
        return [by_place.get(place) for place in range(len(arguments))]

    def tangent(self, arguments: Sequence[Any], directions: Outputs) -> Outputs | None:
        """The gradients' tangents, in blocks; not along the mask."""
        if self._differentiates_mask and directions[self._places[self._mask]] is not None:
            return None
        along = Directions(*[directions[place] for place in self._variables])
        found = tangents(self._kept(arguments), along)[1:]
        return [*found, None] if self._differentiates_mask else found


def _register(name: str) -> None:
    operator = operator_of(name)
    if operator is not None:
        kernel = _Kernel(name, operator)
        rule(name, Faster(kernel.derivative, kernel.tangent, kernel.values))(kernel.rewrite)


for _name in (CPU, EFFICIENT, FLASH, CUDNN):
    _register(_name)
