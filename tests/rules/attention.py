"""Attention in plain operations: the reference for PyTorch's kernels and for their rules; and random calls of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The softmax of scaled scores, times the values; a row that sees no key is zero."""
    shared = query.shape[-3] // key.shape[-3]
    key, value = key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril()
    if mask is not None and mask.dtype is torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        allowed = allowed & ~mask.isneginf()
        scores = scores + mask.masked_fill(mask.isneginf(), 0)
    # Nothing infinite takes part: zero times infinity would be no number in a derivative.
    largest = scores.masked_fill(~allowed, -1e4).amax(-1, keepdim=True).detach()
    exponentials = torch.where(allowed, scores - largest, -torch.inf * torch.ones_like(scores)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True).clamp_min(1e-300) @ value


@dataclass(frozen=True)
class Call:
    """A call of attention: its tensors, of which all but a mask of truth values are variables, and its arguments."""

    tensors: tuple[Tensor, ...]
    mask: Tensor | None
    arguments: dict[str, Any]

    def through(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A scalar function through ``function(query, key, value, mask, **arguments)``, with every derivative."""

        def scalar(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = self.mask) -> Tensor:
            output = function(query, key, value, mask, **self.arguments)
            return (output.sin() * torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view_as(output)).sum()

        return scalar


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **arguments: Any) -> Tensor:
    """PyTorch's own attention, by whichever kernel it chooses."""
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=query.shape[-3] != key.shape[-3], **arguments
    )


def draw(*shape: int) -> Tensor:
    """Standard normal numbers, transposed in memory as those of a model are."""
    return torch.randn(shape[0], shape[2], shape[1], shape[3], dtype=torch.float64).transpose(1, 2)


@st.composite
def calls(choose: st.DrawFn) -> Call:
    """Calls of every shape and with every argument."""
    torch.manual_seed(choose(st.integers(0, 2**16)))
    size = st.integers(1, 5)
    batch, heads, shared = choose(st.integers(1, 2)), choose(st.integers(1, 2)), choose(st.sampled_from([1, 1, 2, 3]))
    length, keys, width = choose(size), choose(size), choose(size)
    value_width = choose(st.sampled_from([width, width, 3]))
    tensors = [draw(batch, heads * shared, length, width), draw(batch, heads, keys, width)]
    tensors.append(draw(batch, heads, keys, value_width))
    arguments: dict[str, Any] = {"scale": choose(st.sampled_from([None, 0.7]))}
    kind = choose(st.sampled_from(["none", "causal", "bool", "constant", "variable"]))
    if kind == "none":
        return Call(tuple(tensors), None, arguments)
    if kind == "causal":
        return Call(tuple(tensors), None, {**arguments, "is_causal": True})
    every = (length, keys)
    shape = choose(
        st.sampled_from([every, (batch, 1, *every), (1, heads * shared, *every), (batch, 1, 1, keys), (1, 1, *every)])
    )
    if kind == "bool":
        # Some rows see nothing at all.
        return Call(tuple(tensors), torch.rand(shape) < 0.6, arguments)
    mask = torch.randn(shape, dtype=torch.float64)
    if kind == "variable":
        return Call((*tensors, mask), None, arguments)
    return Call(tuple(tensors), mask.masked_fill(torch.rand(shape) < 0.3, -torch.inf), arguments)
