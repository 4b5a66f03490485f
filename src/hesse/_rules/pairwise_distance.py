r"""Distances between all pairs of points, :math:`d_{ij} = \lVert x_i - y_j \rVert_p`: cdist and pdist.

The gradient of cotangents :math:`g_{ij}` by :math:`x_i` is, coordinate by coordinate,

.. math:: \sum_j \frac{g_{ij}}{d_{ij}^{p-1}} \operatorname{sign}(x_i - y_j) \, |x_i - y_j|^{p-1},

the sign alone for p = 1, the sign at the largest coordinates for p = :math:`\infty`, zero for p = 0. Points at distance
zero are at a kink, where PyTorch's convention is zero, and so is that of all higher derivatives here, unless the whole
is smooth there: then their distances with p = 2 are norms of their own (``vanishing.py``). Where two points at a
distance share a coordinate and 1 < p < 2, the second derivative is infinite, and the product is not finite.

Distances come as the forward made them: autograd follows them back to the points by itself.

Some releases of PyTorch have second derivatives of their own, but these do not replace the rule: third derivatives are
wrong at distance zero, an ``hvp`` through pdist is NaN, and cdist's batches in ``vmap`` are wrong.

Source: https://docs.pytorch.org/docs/stable/generated/torch.cdist.html; the derivative is elementary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.batches import has_values, have_values
from hesse._rules.rule import rule
from hesse._rules.scope import inside_transform, intercept
from hesse._rules.unseen import is_watching
from hesse._rules.vanishing import followed, is_differentiated, norm_of

_BY_DIFFERENCES = 2
"""The compute mode "donot_use_mm_for_euclid_dist"."""


@rule("aten::_cdist_backward", batched_by_rewrite=True)
def cdist_backward(cotangent: Tensor, x: Tensor, y: Tensor, p: float, distance: Tensor) -> Tensor:
    """The gradient by x, (..., m, k), of cotangents (..., m, n)."""
    if p == 0 or not distance.numel():
        return torch.zeros_like(x)
    if p == 2:
        # As products of matrices: no array of m times n times k. What is subtracted from both cancels; without it
        # points that lie close together, far from the origin, would lose digits.
        center = y.detach().mean(-2, keepdim=True)
        ratio = _divided(cotangent, distance)
        return (x - center) * ratio.sum(-1, keepdim=True) - ratio @ (y - center)
    difference = x.unsqueeze(-2) - y.unsqueeze(-3)
    return _slopes(difference, cotangent.unsqueeze(-1), distance.unsqueeze(-1), p).sum(-2)


@rule("aten::_pdist_backward")
def pdist_backward(cotangent: Tensor, x: Tensor, p: float, distance: Tensor) -> Tensor:
    """The gradient by x, (n, k), of cotangents of the pairs i < j, in order of i and then of j."""
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    slopes = _slopes(x[first] - x[second], cotangent.unsqueeze(-1), distance.unsqueeze(-1), p)
    return torch.zeros_like(x).index_add(0, first, slopes).index_add(0, second, -slopes)


def _by_differences(arguments: Sequence[Any]) -> Tensor | None:
    """The distances where points may coincide, which these do not tell; None where none has a coordinate of another."""
    x, y = arguments
    if not is_differentiated(x, y):
        return None
    if not (has_values(x) and has_values(y)):
        is_seen = have_values(x, y) if inside_transform() else is_watching()
        return _cdist_forward(x, y, 2.0, _BY_DIFFERENCES) if is_seen else None
    if x is not y:
        first = torch.cat((x.detach()[..., :1].flatten(), y.detach()[..., :1].flatten())).sort().values
        if not bool((first[1:] == first[:-1]).any()):
            return None
    return _cdist_forward(x, y, 2.0, _BY_DIFFERENCES)


@rule("aten::_euclidean_dist", otherwise=_by_differences)
def euclidean_dist(x: Tensor, y: Tensor) -> Tensor:
    """What cdist calls for more than 25 points and p = 2.

    It multiplies matrices, and gives points that coincide a distance of rounding errors, where it should be zero.
    A second derivative, which divides by it, would be nothing but those.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _cdist_forward(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Tensor:
    distance: Tensor = torch.ops.aten._cdist_forward.default(x, y, p, compute_mode)

    def coincide() -> Tensor:
        zero = distance.detach() == 0
        # A point and itself stay together.
        return zero & ~torch.eye(zero.shape[-1], dtype=torch.bool, device=zero.device) if x is y else zero

    def replacement() -> Tensor:
        if inside_transform():
            apart = x.unsqueeze(-2) - y.unsqueeze(-3)
            return torch.where(coincide(), norm_of(apart, (-1,)).squeeze(-1), distance)
        *batch, i, j = places = coincide().nonzero(as_tuple=True)
        many = distance.shape[:-2]
        apart = x.expand(*many, *x.shape[-2:])[(*batch, i)] - y.expand(*many, *y.shape[-2:])[(*batch, j)]
        return distance.index_put(places, norm_of(apart, (-1,)).squeeze(-1)) if len(i) else distance

    return followed(distance, replacement, x, y, zero=coincide) if p == 2 else distance


def _pdist_forward(x: Tensor, p: float = 2) -> Tensor:
    distance: Tensor = torch.ops.aten._pdist_forward.default(x, p)

    def replacement() -> Tensor:
        if inside_transform():
            first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
            return norm_of(x[first] - x[second], (-1,)).squeeze(-1)
        (places,) = (distance.detach() == 0).nonzero(as_tuple=True)
        first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)[:, places]
        return distance.index_put((places,), norm_of(x[first] - x[second], (-1,)).squeeze(-1))

    return followed(distance, replacement, x) if p == 2 else distance


intercept("aten::_cdist_forward", _cdist_forward)
intercept("aten::_pdist_forward", _pdist_forward)


def _slopes(difference: Tensor, cotangent: Tensor, distance: Tensor, p: float) -> Tensor:
    if p == 0:
        return torch.zeros_like(difference)
    if math.isinf(p):
        return cotangent * (difference.abs() == distance) * difference.sign()
    if p == 1:
        return cotangent * difference.sign()
    if p == 2:
        return _divided(cotangent, distance) * difference
    apart = distance != 0
    moduli = torch.where(apart, difference, 1).abs()
    # Below 1 the slope at a coordinate that two points share is infinite, and PyTorch's convention is zero.
    shared = (difference == 0) & (p < 1)
    powers = torch.where(shared, 0, torch.where(shared, 1, moduli) ** (p - 1))
    return _divided(cotangent, torch.where(apart, distance, 1) ** (p - 1) * apart) * difference.sign() * powers


def _divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and zero with all its derivatives where the denominator is zero."""
    zero = denominator == 0
    return torch.where(zero, 0, numerator / torch.where(zero, 1, denominator))
