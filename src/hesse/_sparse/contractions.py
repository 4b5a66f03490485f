"""How products of matrices and vectors spread the entries of their factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hesse._sparse.call import Call
from hesse._sparse.sets import Dependence

_MOST_PAIRS = 2**27
"""Pairs of an entry and one that depends on it which are listed for constant factors with zeros."""


def _product(left: str, right: str) -> Callable[[Call], Sequence[Dependence | None]]:
    """The rule of ``self + left @ right``, or of ``left @ right`` if ``self`` is one of them."""

    def rule(call: Call) -> Sequence[Dependence | None]:
        a, b = call.args[left], call.args[right]
        parts = []
        if (part := call.of(left)) is not None:
            parts.append(_times(call, part, b.shape, call.nonzero(right)))
        if (part := call.of(right)) is not None:
            # The transposed product: (A B)ᵀ = Bᵀ Aᵀ.
            mask = call.nonzero(left)
            mirrored = _times(call, _turned(part), _turned_shape(a.shape), None if mask is None else _turn(mask))
            parts.append(_turned(mirrored) if a.dim() > 1 and b.dim() > 1 else mirrored)
        if "self" not in (left, right) and (added := call.of("self")) is not None:
            parts.append(added)
        return [call.sets.union(parts, call.out.shape)]

    return rule


def _times(call: Call, part: Dependence, other: Sequence[int], mask: Tensor | None) -> Dependence:
    """The sets of ``X @ B``: those of X in a row, united along it where the columns of B are not zero."""
    rows = part.rows
    rank = rows.dim()
    columns = other[-1] if len(other) > 1 else None
    batch = tuple(rows.shape[:-2]) if rank > 1 else ()
    lines = tuple(rows.shape[-2:-1]) if rank > 1 else ()
    length = rows.shape[-1]
    shape = (*batch, *lines, *([] if columns is None else [columns]))
    if mask is None or int(mask.sum()) * rows.numel() // max(length, 1) > _MOST_PAIRS:
        united = call.sets.reduce(part, (rank - 1,))
        return united.expand(shape) if columns is not None else united.reshape(*shape)
    filled = mask.reshape(*mask.shape[:-1], -1) if columns is not None else mask.unsqueeze(-1)
    width = 1 if columns is None else columns
    count = int(np.prod(lines))
    if len(batch) and filled.dim() > 2:
        group, inner, column = filled.nonzero().cpu().numpy().T
        groups = 1
    else:
        inner, column = filled.nonzero().cpu().numpy().T
        group, groups = np.zeros_like(inner), int(np.prod(batch))
    # One line of X for each pair of entries of B and lines of its batch.
    line = (group[:, None] + np.arange(groups)[None, :])[:, :, None] * count + np.arange(count)
    targets = (line * width + column[:, None, None]).reshape(-1)
    sources = (line * length + inner[:, None, None]).reshape(-1)
    return call.sets.collect(part, targets, sources, shape)


def _turn(tensor: Tensor) -> Tensor:
    return tensor.mT if tensor.dim() > 1 else tensor


def _turned(part: Dependence) -> Dependence:
    return Dependence(_turn(part.rows), part.table)


def _turned_shape(shape: Sequence[int]) -> torch.Size:
    return torch.Size((*shape[:-2], *reversed(shape[-2:])))


def _summed_product(call: Call) -> Sequence[Dependence | None]:
    """``self`` plus the sum of the products of a batch of matrices."""
    parts = [part for part in [call.of("self")] if part is not None]
    for name, dims in (("batch1", (0, 2)), ("batch2", (0, 1))):
        if (part := call.of(name)) is not None:
            united = call.sets.reduce(part, dims)
            parts.append(Dependence(united.rows.squeeze(0), united.table))
    return [call.sets.union(parts, call.out.shape)]


PRODUCTS = {
    **dict.fromkeys(("mm", "bmm"), _product("self", "mat2")),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "vdot": _product("self", "other"),
    "addmm": _product("mat1", "mat2"),
    "addmv": _product("mat", "vec"),
    "baddbmm": _product("batch1", "batch2"),
    "addbmm": _summed_product,
    "_sparse_mm": _product("sparse", "dense"),
    "_sparse_addmm": _product("mat1", "mat2"),
}
"""The rules of products of matrices and vectors."""
