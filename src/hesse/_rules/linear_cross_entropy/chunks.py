r"""The derivatives of :math:`\sum_n a_n (\log \sum_v e^{z_{nv}} - z_{n t_n})` with :math:`z = X W^T + b`, in chunks.

With :math:`P` the softmax of :math:`z` and :math:`E` the one-hot targets, the derivative by :math:`z` is
:math:`D = a (P - E)`, so the gradients are :math:`D W`, :math:`D^T X` and :math:`\sum_n D_n`. Along cotangents
:math:`U, Q, q` of those, the tangent of the logits is :math:`\zeta = U W^T + X Q^T + q`; with
:math:`R = a P (\zeta - P \cdot \zeta)` the second derivative is

.. math:: R W + D Q, \qquad R^T X + D^T U, \qquad \sum_n R_n, \qquad P \cdot \zeta - \zeta_{t}

by :math:`X`, :math:`W`, :math:`b` and :math:`a`. Rows are independent but for the sums, so no more is held than two
arrays of logits for as many rows as there are features: the size of :math:`W`.

Source: Martens, "New insights and perspectives on the natural gradient method" (2020), section 8, has the product with
the Hessian of the cross entropy; the chunks are those of https://arxiv.org/abs/2411.09009.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """Samples (n, k), weight (v, k), bias (v) or none, and a target for each sample."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor


class Derivatives(NamedTuple):
    """By samples, weight and bias, or along them; None where there is none, or it is zero."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def losses(layer: Layer) -> Tensor:
    """The loss of each sample, (n)."""
    found = layer.x.new_empty(len(layer.x))
    for rows, logits, _ in _chunks(layer):
        _logits(layer, rows, logits)
        found[rows] = torch.logsumexp(logits, 1) - _at_target(logits, layer.target[rows])
    return found


def losses_and_gradient(layer: Layer, scale: Tensor, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, Derivatives]:
    """The loss of each sample, (n), and the gradients of the sum of the losses times ``scale``, (n)."""
    found, by_layer = layer.x.new_empty(len(layer.x)), _zeros(layer, wanted)
    for rows, logits, _ in _chunks(layer):
        x, target = layer.x[rows], layer.target[rows]
        _logits(layer, rows, logits)
        torch.log_softmax(logits, 1, out=logits)
        found[rows] = -_at_target(logits, target)
        slopes = _slopes(logits.exp_(), target, scale[rows])
        if by_layer.x is not None:
            torch.mm(slopes, layer.weight, out=by_layer.x[rows])
        if by_layer.weight is not None:
            by_layer.weight.addmm_(slopes.T, x)
        if by_layer.bias is not None:
            by_layer.bias.add_(slopes.sum(0))
    return found, by_layer


def second_derivative(
    layer: Layer, scale: Tensor, along: Derivatives, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Derivatives]:
    """The derivatives of ⟨along, gradient⟩ by the scale, (n), and by the layer's tensors."""
    found = _zeros(layer, wanted)
    by_scale = torch.empty_like(scale)
    for rows, logits, tangent in _chunks(layer):
        _logits(layer, rows, logits)
        probabilities = torch.softmax(logits, 1, out=logits)
        x, target = layer.x[rows], layer.target[rows]
        tangent.zero_()
        if along.x is not None:
            tangent.addmm_(along.x[rows], layer.weight.T)
        if along.weight is not None:
            tangent.addmm_(x, along.weight.T)
        if along.bias is not None:
            tangent.add_(along.bias)
        mean = torch.bmm(probabilities.unsqueeze(1), tangent.unsqueeze(2)).reshape(-1, 1)
        by_scale[rows] = mean.squeeze(1) - _at_target(tangent, target)
        curvature = tangent.sub_(mean).mul_(probabilities).mul_(scale[rows].unsqueeze(1))
        slopes = _slopes(probabilities, target, scale[rows])
        if found.x is not None:
            torch.mm(curvature, layer.weight, out=found.x[rows])
            if along.weight is not None:
                found.x[rows].addmm_(slopes, along.weight)
        if found.weight is not None:
            found.weight.addmm_(curvature.T, x)
            if along.x is not None:
                found.weight.addmm_(slopes.T, along.x[rows])
        if found.bias is not None:
            found.bias.add_(curvature.sum(0))
    return by_scale, found


def _zeros(layer: Layer, wanted: tuple[bool, bool, bool]) -> Derivatives:
    tensors = layer[:3]
    return Derivatives(
        *[
            torch.zeros_like(tensor) if is_wanted and tensor is not None else None
            for tensor, is_wanted in zip(tensors, wanted, strict=True)
        ]
    )


def _chunks(layer: Layer) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of rows, each with two arrays to be written over."""
    count, features = layer.x.shape
    size = max(1, min(count, features))
    logits, tangent = layer.x.new_empty((2, size, len(layer.weight)))
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        length = rows.stop - start
        yield rows, logits[:length], tangent[:length]


def _logits(layer: Layer, rows: slice, out: Tensor) -> None:
    torch.mm(layer.x[rows], layer.weight.T, out=out)
    if layer.bias is not None:
        out.add_(layer.bias)


def _at_target(entries: Tensor, target: Tensor) -> Tensor:
    return entries.gather(1, target.unsqueeze(1)).squeeze(1)


def _slopes(probabilities: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """a (P - E), written over P."""
    ones = torch.ones((), dtype=scale.dtype, device=scale.device).expand(len(target), 1)
    return probabilities.scatter_add_(1, target.unsqueeze(1), -ones).mul_(scale.unsqueeze(1))
