r"""The gradient of attention, written out whole: what its derivatives of every order are derived from.

With :math:`S = \sigma Q K^\top + M`, :math:`P = \mathrm{softmax}(S)`, :math:`O = P V` and a cotangent :math:`G` of O:

.. math::
    \bar V = P^\top G, \quad \bar P = G V^\top, \quad \bar S = P \circ (\bar P - D), \; D = \mathrm{rowsum}(P \circ
    \bar P), \quad \bar Q = \sigma \bar S K, \quad \bar K = \sigma \bar S^\top Q, \quad \bar M = \bar S

A row of scores that is masked as a whole has P = 0, and no gradient.

Source: Vaswani et al., "Attention is all you need" (2017), section 3.2.1; PyTorch's conventions for the arguments:
https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def precise(dtype: torch.dtype) -> torch.dtype:
    """What the kernels compute in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def scale_of(query: Tensor, scale: float | None) -> float:
    """The factor of the scores: the given one, or that of the size of a head."""
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


def gradient(
    cotangent: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients by query, key, value and mask; the mask is additive, and broadcasts to the scores.

    Shapes: query (B, H, L, E), key (B, H', T, E), value (B, H', T, F), cotangent (B, H, L, F), where each of the H'
    heads of keys serves H / H' neighboring heads of queries.
    """
    dtypes = query.dtype, key.dtype, value.dtype
    cotangent, query, key, value = [entry.to(precise(entry.dtype)) for entry in (cotangent, query, key, value)]
    shared = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    factor = scale_of(query, scale)
    scores = query @ keys.mT * factor
    if mask is not None:
        scores = scores + mask
    if is_causal:
        scores = scores.masked_fill(above_diagonal(scores), -torch.inf)
    dead = scores.detach().isneginf().all(-1, keepdim=True)
    weights = scores.masked_fill(dead, 0).softmax(-1).masked_fill(dead, 0)
    by_weights = cotangent @ values.mT
    by_scores = weights * (by_weights - (weights * by_weights).sum(-1, keepdim=True))
    by_query = by_scores @ keys * factor
    by_key = by_scores.mT @ query * factor
    by_value = weights.mT @ cotangent
    by_mask = None if mask is None else by_scores.sum_to_size(mask.shape).to(mask.dtype)
    return (
        by_query.to(dtypes[0]),
        _summed(by_key, shared).to(dtypes[1]),
        _summed(by_value, shared).to(dtypes[2]),
        by_mask,
    )


def _summed(tensor: Tensor, shared: int) -> Tensor:
    """Over the heads of queries that share a head of keys."""
    batch, heads, *rest = tensor.shape
    return tensor.reshape(batch, heads // shared, shared, *rest).sum(2)


def above_diagonal(scores: Tensor) -> Tensor:
    """Where a query would see a key that comes after it, counted from the first of each."""
    rows, columns = scores.shape[-2:]
    return torch.arange(columns, device=scores.device) > torch.arange(rows, device=scores.device).unsqueeze(-1)
