"""How products of matrices and vectors spread the entries of their factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
            parts.append(_times(call, part, b.shape, call.places(right)))
        if (part := call.of(right)) is not None:
            # The transposed product: (A B)ᵀ = Bᵀ Aᵀ.
            places = call.places(left)
            if places is not None and len(places) > 1:
                places = np.concatenate((places[:-2], places[:-3:-1]))
            mirrored = _times(call, _turned(part), (*a.shape[:-2], *a.shape[:-3:-1]), places)
            parts.append(_turned(mirrored) if a.dim() > 1 and b.dim() > 1 else mirrored)
        if "self" not in (left, right) and (added := call.of("self")) is not None:
            parts.append(added)
        return [call.sets.union(parts, call.out.shape)]

    return rule


def _times(call: Call, part: Dependence, other: Sequence[int], places: Any) -> Dependence:
    """The sets of ``X @ B``: those in a row of X, united over the places of a column of B that are not zero."""
    *batch, length = part.rows.shape
    columns = other[-1:] if len(other) > 1 else ()
    shape = (*batch, *columns)
    lines = batch[-1] if batch else 1
    if places is None or len(places[0]) * math.prod(batch) > _MOST_PAIRS:
        united = call.sets.reduce(part, (len(batch),))
        return united.expand(shape) if columns else united.reshape(*shape)
    inner, column = (places[-2], places[-1]) if columns else (places[-1], np.zeros_like(places[-1]))
    # The lines of X that an entry of B is multiplied with: those of its own matrix in a batch.
    line = np.arange(lines)[:, None] + (places[0] * lines if len(places) > 2 else 0)
    targets = line * math.prod(columns) + column
    sources = line * length + inner
    return call.sets.collect(part, targets.reshape(-1), sources.reshape(-1), shape)


def _turned(part: Dependence) -> Dependence:
    return Dependence(part.rows.mT, part.table) if part.rows.dim() > 1 else part


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
