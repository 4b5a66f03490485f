"""How pooling, padding and interpolation spread the entries of signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._sparse.call import Call, names
from hesse._sparse.convolutions import window
from hesse._sparse.sets import Dependence, numbers


def _average(call: Call) -> Sequence[Dependence | None]:
    """Means over windows, which lie along the last dimensions."""
    (part,) = call.parts()
    rank = len(call.args["kernel_size"]) if len(call.args["kernel_size"]) > 1 else int(call.name[-2])
    for place, dim in enumerate(range(call.out.dim() - rank, call.out.dim())):
        size, step, padding = [_entry(call.args[name], place) for name in ("kernel_size", "stride", "padding")]
        length = call.out.shape[dim]
        pairs = window(length, part.rows.shape[dim], range(size), step or size, padding, 1)
        part = call.sets.along(part, dim, length, *pairs)
    return [part]


def _adaptive_average(call: Call) -> Sequence[Dependence | None]:
    """Means over windows that cover the signal in equal parts, rounded outwards."""
    (part,) = call.parts()
    rank = int(call.name[-2])
    for dim in range(call.out.dim() - rank, call.out.dim()):
        length, before = call.out.shape[dim], part.rows.shape[dim]
        starts = np.arange(length) * before // length
        ends = -(-(np.arange(length) + 1) * before // length)
        targets = np.repeat(np.arange(length), ends - starts)
        sources = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        part = call.sets.along(part, dim, length, targets, sources)
    return [part]


def _entry(values: Sequence[int], place: int) -> int:
    return 0 if not values else values[place] if len(values) > 1 else values[0]


def _transposed(call: Call) -> Sequence[Dependence | None] | None:
    """The backward of a linear operator: its results depend on what the operator spreads them to."""
    part = call.of("grad_output")
    forward: Any = getattr(torch.ops.aten, call.name.removesuffix("_backward")).default
    signal = call.args.get("self")
    shape = signal.shape if isinstance(signal, Tensor) else call.args["input_size"]
    if part is None:
        return None
    names = [argument.name for argument in forward._schema.arguments[1:]]
    given = {name: call.args[name] for name in names if name in call.args}
    if "output_size" in names:
        given["output_size"] = list(part.rows.shape[-int(call.name.removesuffix("d_backward")[-1]) :])
    connected = call.connections(lambda x: forward(x, **given), shape)
    return None if connected is None else [call.sets.collect(part, connected.col, connected.row, shape)]


def _by_place(call: Call) -> Sequence[Dependence | None] | None:
    """The backward of a maximum over windows: results go to the places within each plane where maxima were."""
    part = call.of("grad_output")
    if part is None:
        return None
    places, shape = numbers(call.args["indices"]), call.args["self"].shape
    rank = int(call.name.split("pool")[1][0])
    planes = math.prod(shape[:-rank])
    offsets = np.arange(planes)[:, None] * math.prod(shape[-rank:])
    return [call.sets.collect(part, (places.reshape(planes, -1) + offsets).reshape(-1), None, shape)]


RESAMPLING = {
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), _average),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), _adaptive_average),
    **dict.fromkeys(
        names(
            """
            avg_pool2d_backward avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward
            reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
            replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward
            upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
            _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
            _upsample_nearest_exact3d_backward upsample_linear1d_backward upsample_bilinear2d_backward
            upsample_bicubic2d_backward upsample_trilinear3d_backward
            """
        ),
        _transposed,
    ),
    **dict.fromkeys(
        names(
            """
            max_pool2d_with_indices_backward max_pool3d_with_indices_backward adaptive_max_pool2d_backward
            adaptive_max_pool3d_backward fractional_max_pool2d_backward fractional_max_pool3d_backward
            """
        ),
        _by_place,
    ),
}
"""The rules of pooling, padding and interpolation."""
