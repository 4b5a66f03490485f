r"""First and second derivatives against central differences along a direction.

.. math:: \phi(h) = \frac{\nabla f(x + h v) - \nabla f(x - h v)}{2 h} = \nabla^2 f(x)\, v + O(h^2) + O(\epsilon / h)

A single step proves nothing when it fails: it may be too large, too small, or reach over a kink. So steps are tried
until one agrees; the derivative is called wrong only where differences at several steps agree among each other.

Source: Nocedal, Wright, "Numerical Optimization" (2006), section 8.1.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hesse._checking.subject import Evaluation, Leaves, inner, norm

Verdict = Literal["agrees", "disagrees", "not smooth", "too coarse"]


@dataclasses.dataclass(frozen=True)
class Differences:
    """How a derivative compares with differences.

    Attributes:
        verdict: ``"agrees"``; ``"disagrees"`` where differences agree with each other but not with the derivative;
            ``"not smooth"`` where they do not even agree with each other; ``"too coarse"`` where the precision is
            so low that none of this can be told.
        error: the smallest relative distance between derivative and difference; where both vanish, relative to the
            difference with the longest step.
        tolerance: the relative distance up to which they agree, the cube root of the precision's rounding.
        precision: the dtype in which both were computed.
    """

    verdict: Verdict
    error: float
    tolerance: float
    precision: torch.dtype


def differences(
    evaluate: Callable[[Leaves], Evaluation],
    center: Evaluation,
    x: Leaves,
    direction: Leaves,
    product: Leaves,
) -> tuple[Differences, Differences]:
    """The slope gᵀv against differences of the value, and the product Hv against differences of the gradient."""
    precision = max([tensor.dtype.to_real() for tensor in (*x, center.value)], key=lambda dtype: torch.finfo(dtype).eps)
    eps = torch.finfo(precision).eps
    slope_at_center = torch.tensor(inner(center.gradient, direction), dtype=torch.float64, device="cpu")
    first, second = _Comparison([slope_at_center], eps), _Comparison(product, eps)
    best = eps ** (1 / 3)
    for step in [best * factor for factor in (1, 0.1, 10, 0.01, 100)]:
        ahead, behind = [evaluate(_moved(x, direction, sign * step)) for sign in (1, -1)]
        if not (ahead.is_finite and behind.is_finite):
            continue
        slope = (ahead.value.cpu().double() - behind.value.cpu().double()).reshape(()) / (2 * step)
        curvature = [(a - b) / (2 * step) for a, b in zip(ahead.gradient, behind.gradient, strict=True)]
        # What rounding alone makes of them. Smaller steps are noisier still, but are not to be believed for that.
        around = (center, ahead, behind)
        noise = 50 * eps / max(step, best)
        value = max([abs(float(there.value)) for there in around])
        # What gᵀv is like near by when its terms do not happen to cancel, or to vanish as they do at a minimum.
        length = max([norm([g * v for g, v in zip(there.gradient, direction, strict=True)]) for there in around])
        first.add(step, [slope], noise * value, length)
        second.add(step, curvature, noise * max([norm(there.gradient) for there in around]), 0.0)
        if first.agrees and second.agrees:
            break
    return first.judge(precision), second.judge(precision)


class _Tried(NamedTuple):
    step: float
    difference: Leaves
    noise: float
    scale: float


class _Comparison:
    """A derivative, and differences with one step after another."""

    def __init__(self, derivative: Leaves, eps: float) -> None:
        self._derivative = derivative
        self._tolerance = eps ** (1 / 3)
        self._tried: list[_Tried] = []
        self._error = float("inf")
        self.agrees = False

    def add(self, step: float, difference: Leaves, noise: float, scale: float) -> None:
        """Compare with one more; ``noise``: its own error by rounding; ``scale``: what errors are relative to."""
        tried = _Tried(step, difference, noise, scale)
        for candidate in [tried, *[_extrapolated(tried, other) for other in self._tried]]:
            error, worst = _distance(candidate.difference, self._derivative, candidate.noise, scale)
            self._error = min(self._error, error)
            self.agrees = self.agrees or worst <= self._tolerance
        self._tried.append(tried)

    def judge(self, precision: torch.dtype) -> Differences:
        """What all steps say together."""
        return Differences(self._verdict(precision), self._error, self._tolerance, precision)

    def _converge(self) -> bool:
        """Whether differences approach the derivative by the square of the step, as where it is zero."""
        order = sorted(self._tried, key=lambda tried: -tried.step)
        apart = [_apart(tried.difference, self._derivative) for tried in order]
        for coarse, middle, fine in zip(apart, apart[1:], apart[2:], strict=False):
            # Steps are ten times shorter each.
            if 30 * middle < coarse and 30 * fine < middle:
                self._error = min(self._error, fine / apart[0])
                return True
        return False

    def _verdict(self, precision: torch.dtype) -> Verdict:
        if self.agrees or self._converge():
            return "agrees"
        if torch.finfo(precision).eps > 1e-6 or not self._tried:
            return "too coarse"
        order = sorted(self._tried, key=lambda tried: -tried.step)
        among = [_distance(a.difference, b.difference, b.noise, b.scale)[1] for a, b in itertools.pairwise(order)]
        return "disagrees" if among and min(among) <= self._tolerance else "not smooth"


def _extrapolated(one: _Tried, other: _Tried) -> _Tried:
    """Richardson's extrapolation of two differences to a step of zero: their errors of second order cancel."""
    fine, coarse = sorted((one, other), key=lambda tried: tried.step)
    weight = 1 / ((coarse.step / fine.step) ** 2 - 1)
    pairs = zip(fine.difference, coarse.difference, strict=True)
    return fine._replace(difference=[a + weight * (a - b) for a, b in pairs])


def _distance(a: Leaves, b: Leaves, noise: float, scale: float) -> tuple[float, float]:
    """Relative to the larger, of all leaves together, and of the worst leaf beyond what is noise."""
    apart = [_apart([left], [right]) for left, right in zip(a, b, strict=True)]
    sizes = [max(norm([left]), norm([right]), scale) for left, right in zip(a, b, strict=True)]
    total = sum(size**2 for size in sizes) ** 0.5
    whole = sum(part**2 for part in apart) ** 0.5
    worst = max([max(0.0, part - noise) / size if size else 0.0 for part, size in zip(apart, sizes, strict=True)])
    return (whole / total if total else 0.0), worst


def _apart(a: Leaves, b: Leaves) -> float:
    return norm([left - right.to(left.device) for left, right in zip(a, b, strict=True)])


def scaled(direction: Leaves, x: Leaves) -> list[Tensor]:
    """A direction in which each leaf moves in proportion to the size of its entries, or by one where that is zero."""
    sizes = [norm([leaf]) / max(1, leaf.numel()) ** 0.5 for leaf in x]
    sizes = [size if 0 < size < math.inf else 1.0 for size in sizes]
    return [along.to(leaf.dtype) * size for along, leaf, size in zip(direction, x, sizes, strict=True)]


def _moved(x: Leaves, direction: Leaves, step: float) -> list[Tensor]:
    return [leaf.detach() + step * along for leaf, along in zip(x, direction, strict=True)]
