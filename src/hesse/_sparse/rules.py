"""How operators spread the entries of their arguments over their results, by kinds of operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._sparse.call import Call, names, tensors_in
from hesse._sparse.contractions import PRODUCTS
from hesse._sparse.convolutions import CONVOLUTIONS
from hesse._sparse.resampling import RESAMPLING
from hesse._sparse.sets import Dependence, numbers

Rule = Callable[[Call], Sequence[Dependence | None] | None]
"""The sets of an operator's results; None where the rule does not know this call."""

MOVES = names(
    """
    as_strided_scatter cat channel_shuffle constant_pad_nd diag_embed diagonal_scatter flip gather im2col index
    index_copy index_fill index_put index_select masked_scatter masked_scatter_backward masked_select max_unpool2d
    max_unpool3d pixel_shuffle pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d repeat
    replication_pad1d replication_pad2d replication_pad3d roll scatter select_backward select_scatter slice_backward
    slice_scatter stack take tril triu unsafe_split unsafe_split_with_sizes upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _index_put_impl _unsafe_index _unsafe_index_put _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d
    """
)
"""Operators that move entries: run on the numbers of rows, they give the rows of their results."""

# Their kernels take floating-point numbers only, which are exact for rows.
_FLOATING = names(
    """
    im2col max_unpool2d max_unpool3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    """
)

UNIONS = names(
    """
    clone complex hardshrink_backward lift_fresh_copy masked_fill native_dropout_backward polar softshrink_backward
    where _conj_physical _to_copy
    """
)
"""Operators from entry to entry, beside those that PyTorch marks as such."""

_EMPTY = names(
    """
    empty_like full_like new_empty new_empty_strided new_full new_ones new_zeros ones_like rand_like randint_like
    randn_like zero zeros_like
    """
)
"""Operators that read at most the shapes of their arguments."""


ATTENTION = names(
    """
    attention_gradients attention_tangents _scaled_dot_product_cudnn_attention_backward
    _scaled_dot_product_efficient_attention_backward _scaled_dot_product_flash_attention_backward
    _scaled_dot_product_flash_attention_for_cpu_backward
    """
)
"""Derivatives of attention, PyTorch's and hesse's own: samples and heads stay apart."""


def rule_of(call: Call) -> Rule | None:
    """The rule of an operator, if it has one."""
    if call.name in MOVES:
        return _accumulate if call.args.get("accumulate") is True else _move
    return RULES.get(call.name)


def _move(call: Call) -> Sequence[Dependence | None] | None:
    if call.args.get("reduce") is not None:
        return None
    given = [tensor for value in call.args.values() for tensor in tensors_in(value)]
    found = [(tensor, sets) for tensor in given if (sets := call.read(tensor)) is not None]
    if any(not (tensor.is_floating_point() or tensor.is_complex()) for tensor, _ in found):
        return None  # places that depend on something
    joined, table = call.sets.join([sets for _, sets in found])
    dtype = torch.float64 if call.name in _FLOATING else torch.int32
    rows = {id(tensor): part.to(dtype) for (tensor, _), part in zip(found, joined, strict=True)}

    def of(value: Any, kind: str) -> Any:
        if isinstance(value, Tensor):
            if id(value) in rows:
                return rows[id(value)].clone() if call.written else rows[id(value)]
            if value.is_floating_point() or value.is_complex():
                return torch.zeros(value.shape, dtype=dtype, device=value.device)
            return value
        if isinstance(value, list | tuple):
            return [of(entry, kind) for entry in value]
        # What is filled in depends on nothing.
        return 0 if kind in ("number", "float") else value

    arguments = call.func._schema.arguments
    moved = call.func(**{a.name: of(call.args[a.name], str(a.type)) for a in arguments})
    return [
        Dependence(part.to(torch.int32), table) if isinstance(part, Tensor) else None
        for part in (moved if isinstance(moved, list | tuple) else [moved])
    ]


def _empty(call: Call) -> list[Dependence | None]:
    return [None] * len(call.results)


def _places(shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.arange(math.prod(shape), device=device).reshape(tuple(shape))


def _added_at(call: Call, name: str, places: Callable[[Tensor], Tensor]) -> list[Dependence | None]:
    """Entries of an argument are added to ``self`` at places, the same selection of numbered places."""
    parts = [part for part in [call.of("self")] if part is not None]
    if (added := call.of(name)) is not None:
        targets = places(_places(call.out.shape, call.out.device))
        added = added.expand(targets.shape) if added.rows.numel() != targets.numel() else added
        parts.append(call.sets.collect(added, numbers(targets), None, call.out.shape))
    return [call.sets.union(parts, call.out.shape)]


def _index_add(call: Call) -> list[Dependence | None]:
    if call.out.dim() == 0:
        return _added_at(call, "source", lambda places: places.expand(call.args["source"].numel()))
    return _added_at(call, "source", lambda places: places.index_select(call.args["dim"], call.args["index"].long()))


def _scatter_add(call: Call) -> list[Dependence | None]:
    index, source = call.args["index"], call.of("src")
    parts = [part for part in [call.of("self")] if part is not None]
    if source is not None:
        targets = _places(call.out.shape, call.out.device).gather(call.args["dim"], index)
        used = source.rows[tuple([slice(length) for length in index.shape])] if index.dim() else source.rows
        parts.append(
            call.sets.collect(Dependence(used, source.table), numbers(targets), None, call.out.shape),
        )
    return [call.sets.union(parts, call.out.shape)]


def _accumulate(call: Call) -> list[Dependence | None]:
    """``put`` and ``index_put`` with ``accumulate=True``."""
    if call.name == "put":
        return _added_at(call, "source", lambda places: places.take(call.args["index"]))
    return _added_at(call, "values", lambda places: torch.ops.aten.index.Tensor(places, call.args["indices"]))


def _sum(call: Call) -> list[Dependence | None]:
    (part,) = call.parts()
    return [call.sets.reduce(part, _dims(call)).reshape(*call.out.shape)]


def _dims(call: Call) -> list[int]:
    """The dimensions that an operator works along: all of them where none is named."""
    rank = call.args["self"].dim()
    dim = call.args.get("dim")
    dims = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return [d % rank for d in dims] if rank else []


def _along(call: Call) -> list[Dependence | None]:
    """Every entry of a result depends on all entries along the dimensions."""
    (part,) = call.parts()
    return [call.sets.reduce(part, _dims(call)).expand(call.out.shape)]


def _cumsum(call: Call) -> list[Dependence | None]:
    (part,) = call.parts()
    if not part.rows.dim():
        return [part]
    (dim,) = _dims(call)
    length = part.rows.shape[dim]
    call.sets.require(length * part.rows.numel() // 2)
    return [call.sets.along(part, dim, length, *np.tril_indices(length))]


def _mul(call: Call) -> list[Dependence | None]:
    """A product of entries: none where the other factor is zero at every point."""
    shape = call.out.shape
    found: list[Dependence] = []
    for name, other in (("self", "other"), ("other", "self")):
        if (part := call.of(name)) is None:
            continue
        part = part.expand(shape)
        if (is_nonzero := call.nonzero(other)) is not None:
            part = Dependence(part.rows * is_nonzero, part.table)
        found.append(part)
    return [call.sets.union(found, shape)]


def _overwrite(name: str) -> Rule:
    """Every entry is replaced by one of an argument."""

    def rule(call: Call) -> list[Dependence | None]:
        part = call.of(name)
        return [None if part is None else part.expand(call.out.shape)]

    return rule


def _where(call: Call) -> list[Dependence | None] | None:
    """A choice: of the chosen entries only where the mask is the same at every point."""
    mask = call.args.get("condition")
    if not isinstance(mask, Tensor) or call.of("condition") is not None or not call.is_constant(mask):
        return None
    parts = []
    for name, chosen in (("self", mask), ("other", ~mask)):
        if (part := call.of(name)) is not None:
            parts.append(Dependence(part.expand(call.out.shape).rows * chosen, part.table))
    return [call.sets.union(parts, call.out.shape)]


def _masked_fill(call: Call) -> list[Dependence | None] | None:
    part, mask = call.of("self"), call.args["mask"]
    if part is None or call.of("value") is not None or not call.is_constant(mask):
        return None
    return [Dependence(part.expand(call.out.shape).rows * ~mask, part.table)]


def _matrices(call: Call) -> list[Dependence | None] | None:
    """Functions of whole matrices, the last two dimensions; the others are a batch."""
    parts = call.parts()
    if any(part.rows.dim() < 2 for part in parts) or any(r is None or r.dim() < 2 for r in call.results):
        return None
    whole = [call.sets.reduce(part, (part.rows.dim() - 2, part.rows.dim() - 1)) for part in parts]
    return [None if result is None else call.sets.union(whole, (*result.shape[:-2], 1, 1)) for result in call.results]


def _samples(most: int) -> Rule:
    """Samples of a batch stay apart: leading dimensions, at most so many, that all arguments and results share."""

    def rule(call: Call) -> list[Dependence | None] | None:
        parts = call.parts()
        shapes = [part.rows.shape for part in parts] + [result.shape for result in call.results if result is not None]
        shared = [len(set(lengths)) == 1 for lengths in zip(*shapes, strict=False)][:most]
        kept = (*shared, False).index(False)
        if kept == 0 or call.written:
            return None
        each = [call.sets.reduce(part, range(kept, part.rows.dim())).reshape(*part.rows.shape[:kept]) for part in parts]
        united = call.sets.union(each, shapes[0][:kept])
        assert united is not None
        return [
            None if result is None else united.reshape(*result.shape[:kept], *[1] * (result.dim() - kept))
            for result in call.results
        ]

    return rule


RULES: dict[str, Rule] = {
    **dict.fromkeys(_EMPTY, _empty),
    **dict.fromkeys(("sum", "mean", "nansum"), _sum),
    **dict.fromkeys(("_fft_r2c", "_fft_c2c", "_fft_c2r"), _along),
    "cumsum": _cumsum,
    "mul": _mul,
    **dict.fromkeys(
        names(
            """
            cholesky_inverse cholesky_solve linalg_inv_ex linalg_lu_solve linalg_matrix_exp linalg_solve_triangular
            triangular_solve _linalg_solve_ex
            """
        ),
        _matrices,
    ),
    **dict.fromkeys(("grid_sampler_2d_backward", "grid_sampler_3d", "grid_sampler_3d_backward"), _samples(1)),
    **dict.fromkeys(ATTENTION, _samples(2)),
    "copy": _overwrite("src"),
    "fill": _overwrite("value"),
    "index_add": _index_add,
    "scatter_add": _scatter_add,
    "where": _where,
    "masked_fill": _masked_fill,
    **PRODUCTS,
    **CONVOLUTIONS,
    **RESAMPLING,
}
"""The rules of operators that do more than move entries, by name."""
