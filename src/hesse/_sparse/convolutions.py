"""How convolutions spread the entries of their inputs and kernels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._sparse.call import Call
from hesse._sparse.sets import Dependence

_MOST_PAIRS = 2**27
"""Pairs of an entry and one that depends on it which are listed for kernels with zeros."""


def _windows(call: Call, small: Sequence[int], large: Sequence[int], offset: Sequence[int]) -> tuple[Any, Any]:
    """Flat places in the shorter and the longer signal that one entry of the kernel connects."""
    inside = np.ones(tuple(small), bool)
    place = np.zeros(tuple(small), np.int64)
    for d, (size, length) in enumerate(zip(small, large, strict=True)):
        step, padding, dilation = [_entry(call.args[name], d) for name in ("stride", "padding", "dilation")]
        along = (np.arange(size) * step - padding + offset[d] * dilation).reshape([-1 if i == d else 1 for i in range(len(small))])
        inside &= (along >= 0) & (along < length)
        place = place * length + along
    return np.flatnonzero(inside), place[inside]


def _entry(values: Sequence[int], place: int) -> int:
    return int(values[place] if len(values) > 1 else values[0])


def _spread(call: Call, part: Dependence, shape: Sequence[int], to_small: bool) -> Dependence:
    """The sets of a signal that is convolved, from the longer to the shorter signal or back, with the kernel."""
    weight, groups = call.args["weight"], call.args["groups"]
    mask = call.nonzero("weight")
    here, there = tuple(part.rows.shape), tuple(shape)
    kernel = tuple(weight.shape[2:])
    pairs = int(np.prod(here[0:1] + there[2:])) * (0 if mask is None else int(mask.sum()))
    if mask is None or pairs > _MOST_PAIRS:
        # All channels of a group are connected: first they are united.
        grouped = part.reshape(here[0], groups, here[1] // groups, *here[2:])
        united = call.sets.reduce(grouped, (2,)).reshape(here[0], groups, *here[2:])
        spread = _connected(call, united, (here[0], groups, *there[2:]), torch.ones((groups, 1, *kernel), dtype=torch.bool), to_small)
        repeated = spread.reshape(here[0], groups, 1, *there[2:]).expand((here[0], groups, there[1] // groups, *there[2:]))
        return repeated.reshape(*there)
    return _connected(call, part, there, mask.cpu(), to_small)


def _connected(call: Call, part: Dependence, shape: Sequence[int], mask: Tensor, to_small: bool) -> Dependence:
    """One union for each entry: along the entries of the kernel that are not zero."""
    groups = call.args["groups"]
    here, there = tuple(part.rows.shape), tuple(shape)
    small, large = (there, here) if to_small else (here, there)
    numbers_small, numbers_large = int(np.prod(small[2:])), int(np.prod(large[2:]))
    samples = np.arange(here[0])[:, None, None]
    of_small, of_large = [], []
    for offset in itertools.product(*[range(length) for length in mask.shape[2:]]):
        first, second = mask[(slice(None), slice(None), *offset)].nonzero().numpy().T
        at_small, at_large = _windows(call, small[2:], large[2:], offset)
        # Channels of the longer signal are numbered within their group.
        second = second + first // (small[1] // groups) * (large[1] // groups)
        of_small.append(((samples * small[1] + first[:, None]) * numbers_small + at_small).reshape(-1))
        of_large.append(((samples * large[1] + second[:, None]) * numbers_large + at_large).reshape(-1))
    both = np.concatenate(of_small), np.concatenate(of_large)
    targets, sources = both if to_small else both[::-1]
    return call.sets.collect(part, targets, sources, there)


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
