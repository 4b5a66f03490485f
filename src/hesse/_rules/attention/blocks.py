r"""The second derivative of attention in blocks of rows: memory grows with the length, not with its square.

The gradients of attention, :math:`(\bar Q, \bar K, \bar V)`, are those of :math:`\varphi = \langle G, O \rangle`, so
their derivative is the Hessian of :math:`\varphi`, which is symmetric: to pull cotangents back through the gradient is
to take the *tangent* of output and gradients along them. With the names of ``formula`` and a dot for tangents:

.. math::
    \dot S &= \sigma (\dot Q K^\top + Q \dot K^\top), \quad
    \dot P = P \circ (\dot S - \mathrm{rowsum}(P \circ \dot S)), \quad
    \dot O = \dot P V + P \dot V \\
    \dot{\bar P} &= G \dot V^\top + \dot G V^\top, \quad
    \dot D = \mathrm{rowsum}(G \circ \dot O + \dot G \circ O), \quad
    \dot{\bar S} = \dot P \circ (\bar P - D) + P \circ (\dot{\bar P} - \dot D) \\
    \dot{\bar Q} &= \sigma (\dot{\bar S} K + \bar S \dot K), \quad
    \dot{\bar K} = \sigma (\dot{\bar S}^\top Q + \bar S^\top \dot Q), \quad
    \dot{\bar V} = \dot P^\top G + P^\top \dot G

P is made anew. A block is some rows of the scores over all keys that they see, so that neither the softmax nor another
sum over a row needs statistics or a pass of its own: twelve products of a block with a matrix, where blocks of columns
would take fifteen. Above the diagonal of causal attention nothing is made.

Source: Dao et al., "FlashAttention" (2022), for the first derivative in blocks; Pearlmutter, "Fast exact
multiplication by the Hessian" (1994), for tangents of gradients. The formulas are derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._rules.attention.formula import above_diagonal, precise, scale_of
from hesse._rules.attention.products import added_product, prefers_single_matrices, product


class _Size(NamedTuple):
    """How large a block is: about so many scores, of so many heads at most, in so many rows at least and at most.

    ``most_widths``: how many numbers of keys may occur in causal attention, where each block sees more than the last.
    """

    scores: int
    least_rows: int
    most_rows: int
    most_heads: int = 2**24
    most_widths: int = 2**24


# Fewer rows make products too thin, more of them leave the caches and causal attention more above its diagonal. Several
# heads in a block rather than many blocks: threads meet after each operation, and wait long where cores are shared.
_ON_CPU = _Size(scores=2**19, least_rows=64, most_rows=128)
# oneDNN compiles a program for each new shape, and keeps about a MiB of them.
_ON_CPU_SINGLY = _Size(scores=2**20, least_rows=64, most_rows=256, most_heads=1, most_widths=8)
# Enough work for each launch of a kernel.
_ELSEWHERE = _Size(scores=2**24, least_rows=64, most_rows=2**24)


def _size(key: Tensor) -> _Size:
    if key.device.type != "cpu":
        return _ELSEWHERE
    return _ON_CPU_SINGLY if prefers_single_matrices(key) else _ON_CPU


class Kept(NamedTuple):
    """What the forward kept, and the cotangent of its output; shapes as in ``formula.gradient``."""

    cotangent: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float | None


class Directions(NamedTuple):
    """Tangents of cotangent, query, key and value; None for zero."""

    cotangent: Tensor | None
    query: Tensor | None
    key: Tensor | None
    value: Tensor | None


class Tangents(NamedTuple):
    """Tangents of the output and of the three gradients."""

    output: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


class Gradients(NamedTuple):
    """The gradients by query, key and value."""

    query: Tensor
    key: Tensor
    value: Tensor


def gradients(kept: Kept) -> Gradients:
    """The first derivative, five products a block: what the kernel computes, where its products are the slower ones."""
    point = _layout(kept)
    result = Gradients(torch.empty_like(point.query), _zeros_for_adding(point.key), _zeros_for_adding(point.value))
    for block in _blocks_of(point, kept.is_causal):
        _add_gradient(point, block, result, kept.is_causal)
    return Gradients(*_as_given(result, (kept.query, kept.key, kept.value)))


def tangents(kept: Kept, directions: Directions, *, only_output: bool = False) -> Tangents:
    """The tangents of output and gradients along ``directions``; with ``only_output`` the others stay zero."""
    point = _layout(kept)
    along = _layout_directions(directions, point)
    result = Tangents(
        # These two are written, and the others added to.
        torch.empty_like(point.cotangent),
        torch.zeros_like(point.query) if only_output else torch.empty_like(point.query),
        _zeros_for_adding(point.key),
        _zeros_for_adding(point.value),
    )
    for block in _blocks_of(point, kept.is_causal):
        _add_tangents(point, along, block, result, kept.is_causal, only_output)
    return Tangents(*_as_given(result, (kept.output, kept.query, kept.key, kept.value)))


def _zeros_for_adding(tensor: Tensor) -> Tensor:
    """Transposed in memory: adding to them is a fifth faster so."""
    return torch.zeros_like(tensor.mT, memory_format=torch.contiguous_format).mT


def _as_given(results: Iterable[Tensor], tensors: Iterable[Tensor]) -> list[Tensor]:
    """The results in shapes and dtypes of those that were given."""
    return [result.reshape(tensor.shape).to(tensor.dtype) for result, tensor in zip(results, tensors, strict=True)]


class _Block(NamedTuple):
    """Some rows of the scores of some heads, over the first ``seen`` keys.

    Tensors with a row for each query have shape (B, H', H / H', L, ·), those with one for each key (B, H', T, ·):
    each head of keys comes with the heads of queries that it serves.
    """

    batches: slice
    heads: slice
    member: int
    rows: slice
    seen: int

    def queries(self, tensor: Tensor) -> Tensor:
        """The block's part of a tensor with a row for each query, (heads, rows, ·); a view of a contiguous one."""
        return tensor[self.batches, self.heads, self.member, self.rows].flatten(0, 1)

    def keys(self, tensor: Tensor) -> Tensor:
        """The block's part of a tensor with a row for each key, (heads, seen, ·); a view of a contiguous one."""
        return tensor[self.batches, self.heads, : self.seen].flatten(0, 1)


def _blocks_of(point: _Point, is_causal: bool) -> Iterator[_Block]:
    return _blocks(tuple(point.query.shape[:4]), point.key.shape[-2], is_causal, _size(point.key))


def _blocks(shape: tuple[int, ...], keys: int, is_causal: bool, size: _Size) -> Iterator[_Block]:
    """Blocks that cover queries of ``shape`` (B, H', H / H', L).

    A block is of heads of one batch or of whole batches, so that its part of a contiguous tensor is a view.
    """
    batch, heads, shared, length = shape
    rows = min(size.most_rows, size.scores // max(keys, 1), length // 8 if is_causal else length)
    rows = min(max(rows, size.least_rows), length)
    step = -(-keys // size.most_widths)
    together = min(max(size.scores // max(rows * keys, 1), 1), size.most_heads)
    for batches in _slices(batch, max(together // max(heads, 1), 1)):
        for some_heads in _slices(heads, min(together, heads)):
            for member in range(shared):
                for some_rows in _slices(length, rows):
                    seen = min(-(-some_rows.stop // step) * step, keys) if is_causal else keys
                    yield _Block(batches, some_heads, member, some_rows, seen)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, max(step, 1))]


class _Point(NamedTuple):
    """The tensors of a point as blocks want them: contiguous."""

    factor: float
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    cotangent: Tensor
    negative_means: Tensor
    mask: Tensor | None


class _Along(NamedTuple):
    """Its directions, likewise; zeros, but for the cotangent's, in place of None."""

    cotangent: Tensor | None
    query: Tensor
    key: Tensor
    value: Tensor


def _layout(kept: Kept) -> _Point:
    shared = kept.query.shape[1] // kept.key.shape[1]
    output, cotangent = _by_row(kept.output, shared), _by_row(kept.cotangent, shared)
    mask = None if kept.mask is None else kept.mask.expand(*kept.query.shape[:3], kept.key.shape[2])
    return _Point(
        factor=scale_of(kept.query, kept.scale),
        query=_by_row(kept.query, shared),
        key=_by_key(kept.key),
        value=_by_key(kept.value),
        output=output,
        cotangent=cotangent,
        negative_means=-(cotangent * output).sum(-1, keepdim=True),
        mask=None if mask is None else _unflatten(mask, shared),
    )


def _layout_directions(directions: Directions, point: _Point) -> _Along:
    shared = point.query.shape[2]
    return _Along(
        cotangent=None if directions.cotangent is None else _by_row(directions.cotangent, shared),
        query=torch.zeros_like(point.query) if directions.query is None else _by_row(directions.query, shared),
        key=torch.zeros_like(point.key) if directions.key is None else _by_key(directions.key),
        value=torch.zeros_like(point.value) if directions.value is None else _by_key(directions.value),
    )


def _by_key(tensor: Tensor) -> Tensor:
    return tensor.to(precise(tensor.dtype)).contiguous()


def _by_row(tensor: Tensor, shared: int) -> Tensor:
    return _unflatten(_by_key(tensor), shared)


def _unflatten(tensor: Tensor, shared: int) -> Tensor:
    """(B, H, L, ·) as (B, H', H / H', L, ·)."""
    batch, heads, *rest = tensor.shape
    return tensor.view(batch, heads // shared, shared, *rest)


def _weights(query: Tensor, key: Tensor, point: _Point, block: _Block, is_causal: bool) -> Tensor:
    """The block's P from its queries, times the scale, and keys."""
    scores = product(query, key.mT)
    if point.mask is not None:
        scores.add_(block.queries(point.mask)[..., : block.seen])
    if is_causal:
        diagonal = scores[..., block.rows.start :]
        diagonal.masked_fill_(above_diagonal(diagonal), -torch.inf)
    weights = scores.softmax(-1)
    if point.mask is not None:
        # A row that sees no key has no softmax, and its weights are zero; scores that are no numbers stay so.
        weights.masked_fill_(scores.amax(-1, keepdim=True).isneginf(), 0)
    return weights


def _add_gradient(point: _Point, block: _Block, result: Gradients, is_causal: bool) -> None:
    """Write, for the queries, and add, for the keys, what a block gives."""
    query, key, value = block.queries(point.query) * point.factor, block.keys(point.key), block.keys(point.value)
    cotangent = block.queries(point.cotangent)
    weights = _weights(query, key, point, block, is_causal)
    block.keys(result.value).mT.add_(product(cotangent.mT, weights))
    by_scores = weights.mul_(added_product(block.queries(point.negative_means), cotangent, value.mT))
    block.queries(result.query).copy_(product(by_scores, key).mul_(point.factor))
    # The scale is in the queries already.
    block.keys(result.key).mT.add_(product(query.mT, by_scores))


def _add_tangents(
    point: _Point, along: _Along, block: _Block, result: Tangents, is_causal: bool, only_output: bool
) -> None:
    """Write, for the queries, and add, for the keys, what a block gives."""
    query, query_tangent = [block.queries(entry) * point.factor for entry in (point.query, along.query)]
    key, key_tangent = block.keys(point.key), block.keys(along.key)
    value, value_tangent = block.keys(point.value), block.keys(along.value)

    weights = _weights(query, key, point, block, is_causal)
    scores_tangent = added_product(product(query_tangent, key.mT), query, key_tangent.mT)
    weights_tangent = scores_tangent.mul_(weights)
    weights_tangent.addcmul_(weights, weights_tangent.sum(-1, keepdim=True), value=-1)
    output_tangent = block.queries(result.output)
    output_tangent.copy_(added_product(product(weights_tangent, value), weights, value_tangent))
    if only_output:
        return

    cotangent = block.queries(point.cotangent)
    negative_means_tangent = -(cotangent * output_tangent).sum(-1, keepdim=True)
    by_value = block.keys(result.value).mT
    by_value.add_(product(cotangent.mT, weights_tangent))
    if along.cotangent is not None:
        cotangent_tangent = block.queries(along.cotangent)
        negative_means_tangent -= (cotangent_tangent * block.queries(point.output)).sum(-1, keepdim=True)
        by_value.add_(product(cotangent_tangent.mT, weights))
    # Both gradients by P less their means over a row.
    by_weights = added_product(block.queries(point.negative_means), cotangent, value.mT)
    by_weights_tangent = added_product(negative_means_tangent, cotangent, value_tangent.mT)
    if along.cotangent is not None:
        by_weights_tangent = added_product(by_weights_tangent, cotangent_tangent, value.mT)
    by_scores_tangent = weights_tangent.mul_(by_weights).addcmul_(weights, by_weights_tangent)
    by_scores = weights.mul_(by_weights)

    by_query = added_product(product(by_scores_tangent, key), by_scores, key_tangent)
    block.queries(result.query).copy_(by_query.mul_(point.factor))
    # The scale is in the queries already.
    by_key = added_product(product(query.mT, by_scores_tangent), query_tangent.mT, by_scores)
    block.keys(result.key).mT.add_(by_key)
