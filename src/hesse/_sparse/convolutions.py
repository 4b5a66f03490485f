"""How convolutions spread the entries of their inputs and kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hesse._sparse.call import Call
from hesse._sparse.sets import Dependence

_MOST_PAIRS = 2**27
"""Pairs of an entry and one that depends on it which are listed for kernels with zeros."""


def _spread(call: Call, part: Dependence, shape: Sequence[int], to_small: bool) -> Dependence:
    """The sets of a signal that is convolved, from the longer to the shorter signal or back, with the kernel."""
    groups, kernel = call.args["groups"], call.args["weight"].shape[2:]
    here, there = tuple(part.rows.shape), tuple(shape)
    small, large = (there, here) if to_small else (here, there)
    mask = call.nonzero("weight")
    if mask is not None and math.prod(here[:1] + small[2:]) * int(mask.sum()) <= _MOST_PAIRS:
        return _listed(call, part, there, mask.cpu(), to_small)
    # All channels of a group, and all places of a window, are connected: one dimension after the other.
    grouped = part.reshape(here[0], groups, here[1] // groups, *here[2:])
    spread = call.sets.reduce(grouped, (2,))
    for d, size in enumerate(kernel):
        pairs = window(small[2 + d], large[2 + d], range(size), *_geometry(call, d))
        spread = call.sets.along(spread, 3 + d, there[2 + d], *(pairs if to_small else pairs[::-1]))
    return spread.expand((there[0], groups, there[1] // groups, *there[2:])).reshape(*there)


def window(small: int, large: int, offsets: Sequence[int], step: int, padding: int, dilation: int) -> tuple[Any, Any]:
    """Places in the shorter and the longer signal that entries of a kernel connect."""
    here = np.repeat(np.arange(small), len(offsets))
    there = here * step - padding + np.tile(np.asarray(offsets), small) * dilation
    inside = (there >= 0) & (there < large)
    return here[inside], there[inside]


def _geometry(call: Call, dim: int) -> list[int]:
    """Stride, padding and dilation along a dimension."""
    values = [call.args[name] for name in ("stride", "padding", "dilation")]
    return [int(entries[dim] if len(entries) > 1 else entries[0]) for entries in values]


def _listed(call: Call, part: Dependence, shape: Sequence[int], mask: Tensor, to_small: bool) -> Dependence:
    """The same, for the entries of the kernel that are not zero."""
    here, there = tuple(part.rows.shape), tuple(shape)
    small, large = (there, here) if to_small else (here, there)
    samples = np.arange(here[0])[:, None, None]
    of_small, of_large = [], []
    for offset in itertools.product(*[range(length) for length in mask.shape[2:]]):
        first, second = mask.permute(*range(2, mask.dim()), 0, 1)[offset].nonzero().numpy().T
        at_small, at_large = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for d, place in enumerate(offset):
            lower, higher = window(small[2 + d], large[2 + d], [place], *_geometry(call, d))
            at_small = (at_small[:, None] * small[2 + d] + lower).reshape(-1)
            at_large = (at_large[:, None] * large[2 + d] + higher).reshape(-1)
        # Channels of the longer signal are numbered within their group.
        second = second + first // (small[1] // call.args["groups"]) * mask.shape[1]
        of_small.append(((samples * small[1] + first[:, None]) * math.prod(small[2:]) + at_small).reshape(-1))
        of_large.append(((samples * large[1] + second[:, None]) * math.prod(large[2:]) + at_large).reshape(-1))
    both = np.concatenate(of_small), np.concatenate(of_large)
    return call.sets.collect(part, *(both if to_small else both[::-1]), there)


def _of_channels(call: Call, part: Dependence, channels: int, first: bool) -> Dependence:
    """The sets of a kernel by channel of the signal on its first or second dimension: (channels,)."""
    groups = call.args["groups"]
    rows = part.rows
    if first:
        return call.sets.reduce(part, range(1, rows.dim())).reshape(channels)
    grouped = part.reshape(groups, rows.shape[0] // groups, rows.shape[1], *rows.shape[2:])
    return call.sets.reduce(grouped, (1, *range(3, rows.dim() + 1))).reshape(channels)


def _by_channel(part: Dependence, shape: Sequence[int]) -> Dependence:
    return part.reshape(-1, *[1] * (len(shape) - 2)).expand(shape)


def _summed(call: Call, part: Dependence) -> Dependence:
    dims = [d for d in range(part.rows.dim()) if d != 1]
    return call.sets.reduce(part, dims).reshape(-1)


def _convolution(call: Call) -> Sequence[Dependence | None] | None:
    if call.args["input"].dim() != call.args["weight"].dim():
        return None
    shape, transposed = call.out.shape, call.args["transposed"]
    parts = []
    if (part := call.of("input")) is not None:
        parts.append(_spread(call, part, shape, not transposed))
    if (part := call.of("weight")) is not None:
        parts.append(_by_channel(_of_channels(call, part, shape[1], not transposed), shape))
    if (part := call.of("bias")) is not None:
        parts.append(_by_channel(part, shape))
    return [call.sets.union(parts, shape)]


def _convolution_backward(call: Call) -> Sequence[Dependence | None] | None:
    signal, kernel, transposed = call.args["input"], call.args["weight"], call.args["transposed"]
    groups = call.args["groups"]
    if signal.dim() != kernel.dim():
        return None
    of_input, of_weight = [], []
    of_bias: list[Dependence] = []
    if (part := call.of("grad_output")) is not None:
        of_input.append(_spread(call, part, signal.shape, transposed))
        of_weight.append(_on_kernel(_summed(call, part), kernel.shape, groups, not transposed))
        of_bias.append(_summed(call, part))
    if (part := call.of("weight")) is not None:
        of_input.append(_by_channel(_of_channels(call, part, signal.shape[1], transposed), signal.shape))
    if (part := call.of("input")) is not None:
        of_weight.append(_on_kernel(_summed(call, part), kernel.shape, groups, transposed))
    made = zip(call.results, (of_input, of_weight, of_bias), strict=True)
    return [None if result is None else call.sets.union(parts, result.shape) for result, parts in made]


def _on_kernel(part: Dependence, shape: Sequence[int], groups: int, first: bool) -> Dependence:
    """Sets by channel on the first or second dimension of a kernel."""
    ones = [1] * (len(shape) - 2)
    if first:
        return part.reshape(-1, 1, *ones).expand(shape)
    grouped = part.reshape(groups, 1, shape[1], *ones).expand((groups, shape[0] // groups, *shape[1:]))
    return grouped.reshape(*shape)


CONVOLUTIONS = {"convolution": _convolution, "convolution_backward": _convolution_backward}
"""The rules of convolutions; those of kernels are supersets, by channels."""
