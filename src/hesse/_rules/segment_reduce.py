r"""Reductions of consecutive segments along an axis, whose lengths or offsets are given.

The gradient of a cotangent :math:`g_s` of a segment :math:`s`, by an element :math:`x_k` of it, is :math:`g_s` for the
sum; :math:`g_s / n_s` for the mean; for the maximum and the minimum :math:`g_s` shared equally by the elements that
attain it; and for the product :math:`g_s c \prod_{l \in s, l \ne k} x_l`, with the initial value :math:`c`.

Source: the documentation of torch.segment_reduce in PyTorch's sources, torch/_torch_docs.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.pullback import pullback
from hesse._rules.rule import rule


@rule("aten::_segment_reduce_backward")
def segment_reduce_backward(
    cotangent: Tensor,
    output: Tensor,
    data: Tensor,
    reduce: str,
    lengths: Tensor | None,
    offsets: Tensor | None,
    axis: int,
    initial: float | None,
) -> Tensor:
    """The gradient by the data of a cotangent like the output."""
    edges = torch.nn.functional.pad(lengths.cumsum(-1), (1, 0)) if offsets is None else offsets  # type: ignore[union-attr]  # one of both is given
    segments = _segments(edges, data, axis)
    count = output.shape[axis]
    inside = (segments >= 0) & (segments < count)
    places = segments.clamp(0, count - 1)

    def spread(values: Tensor) -> Tensor:
        return torch.where(inside, values.gather(axis, places), 0)

    if reduce == "sum":
        return spread(cotangent)
    if reduce == "mean":
        sizes = edges.diff().clamp(min=1)
        return spread(cotangent / sizes.reshape(*sizes.shape, *[1] * (data.dim() - sizes.dim())))
    if reduce == "prod":
        return _prod_backward(cotangent, data, segments, count, axis, 1 if initial is None else initial)
    attained = ((data == spread(output)) & inside).to(data.dtype)
    shares = torch.zeros_like(output).scatter_add(axis, places, attained).clamp(min=1)
    return spread(cotangent / shares) * attained


def _segments(edges: Tensor, data: Tensor, axis: int) -> Tensor:
    """The segment of each element, of the shape of the data; outside of all it is -1 or their number."""
    places = torch.arange(data.shape[axis], device=edges.device, dtype=edges.dtype)
    found = torch.searchsorted(edges.contiguous(), places.repeat(*edges.shape[:-1], 1), right=True) - 1
    return found.reshape(*found.shape, *[1] * (data.dim() - found.dim())).expand(data.shape)


def _prod_backward(cotangent: Tensor, data: Tensor, segments: Tensor, count: int, axis: int, initial: float) -> Tensor:
    numbers = torch.arange(count, device=data.device).reshape(-1, *[1] * (data.dim() - axis))
    members = segments.unsqueeze(axis) == numbers

    def products(data: Tensor) -> Tensor:
        # PyTorch differentiates its products where factors are zero, which a quotient by the factor would not.
        return torch.where(members, data.unsqueeze(axis), 1).prod(axis + 1) * initial

    (gradient,) = pullback(products, [data], [0], [cotangent])
    return torch.zeros_like(data) if gradient is None else gradient
