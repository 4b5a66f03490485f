"""The derivatives of a function against differences, in the best precision that it lets itself be evaluated in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hesse._base.memory import available
from hesse._checking.differences import Differences, differences
from hesse._checking.doubling import Doubled, double_leaves, doubled
from hesse._checking.subject import Evaluation, Leaves, Subject, norm


class Comparison(NamedTuple):
    """The worst that was found along some directions; None where nothing could be compared.

    Attributes:
        slope: gᵀv against differences of the value.
        curvature: Hv against differences of the gradient.
        rounding: relative distance of Hv from the same in double precision, where it could be had.
    """

    slope: Differences | None
    curvature: Differences | None
    rounding: float | None


def compare(
    subject: Subject,
    evaluation: Evaluation,
    directions: Sequence[Leaves],
    products: Sequence[Sequence[Tensor]],
    bytes_kept: int,
) -> Comparison:
    """Compare value, gradient and products at the point with differences along ``directions``.

    ``bytes_kept`` is what a product kept in the precision of the inputs: in double precision it takes up to four times
    as much, and that must be there.
    """
    slopes, curvatures, roundings = [], [], []
    native = all([leaf.dtype.to_real() == torch.float64 for leaf in subject.leaves])
    fits = 4 * bytes_kept < available(subject.leaves[0].device)
    double = doubled(subject, evaluation) if fits and not native else None
    for direction, product in zip(directions, products, strict=True):
        if double is None:
            slope, curvature = differences(subject.evaluate, evaluation, subject.leaves, direction, product)
        else:
            x = double_leaves(subject)
            along = [entry.to(leaf.dtype) for entry, leaf in zip(direction, x, strict=True)]
            exact = subject.product(x, along, Doubled)
            size = norm(exact)
            apart = norm([a - b for a, b in zip(exact, product, strict=True)])
            roundings.append(apart / size if size else apart)
            slope, curvature = differences(lambda leaves: subject.evaluate(leaves, Doubled), double, x, along, exact)
        slopes.append(slope)
        curvatures.append(curvature)
    return Comparison(_worst(slopes), _worst(curvatures), max(roundings, default=None))


def _worst(found: Sequence[Differences]) -> Differences | None:
    order = ("agrees", "too coarse", "not smooth", "disagrees")
    return max(found, key=lambda one: (order.index(one.verdict), one.error), default=None)
