"""The minimizer of a small quadratic model within a ball, by an eigendecomposition."""

from __future__ import annotations

import dataclasses
import math

import scipy  # its parts load when they are first used
import torch
from torch import Tensor

from hesse._solvers import columns


@dataclasses.dataclass(frozen=True)
class Step:
    """The minimizer h of γ·h₁ + ½·hᵀTh with ‖h‖ ≤ Δ.

    Attributes:
        coordinates: h, (k,), float64.
        length: ‖h‖.
        decrease: by how much the model falls.
        on_boundary: whether ‖h‖ is Δ.
    """

    coordinates: Tensor
    length: float
    decrease: float
    on_boundary: bool


def minimize_model(T: Tensor, gamma: float, radius: float) -> Step:
    r"""The minimizer of :math:`\gamma h_1 + \frac12 h^\top T h` with :math:`\|h\| \le \Delta`.

    In the eigenvectors of T the minimizer on the sphere is :math:`y_i = -c_i / (d_i - d_1 + \mu)`. The length falls
    from at least Δ at :math:`\mu = |c_1| / \Delta` to at most Δ at :math:`\mu = \gamma / \Delta`.

    Args:
        T: symmetric, (k, k), float64.
        gamma: the gradient's norm γ.
        radius: Δ.

    Source: Conn, Gould and Toint, Trust-Region Methods, SIAM 2000, section 7.3.
    """
    # In units of γ, whose quotients by large radii would underflow, as far as T stays finite.
    unit = max(math.frexp(gamma)[1], math.frexp(float(T.abs().max()))[1] - 1000)
    values, vectors = torch.linalg.eigh(columns.ldexp(T, -unit))
    gamma = math.ldexp(gamma, -unit)
    c = gamma * vectors[0]
    lowest = float(values[0])
    if lowest > 0:
        y = -c / values
        if _length(y) <= radius:
            return _step(values, vectors, c, y, unit, on_boundary=False)
    gaps = values - lowest

    def coordinates(mu: float) -> Tensor:
        return torch.where(c == 0, 0, -c / (gaps + mu))

    def excess(mu: float) -> float:
        # The reciprocal of the length is nearly linear in μ.
        return 1 / radius - 1 / _length(coordinates(mu))

    low, high = abs(float(c[0])) / radius, gamma / radius
    y = coordinates(low)
    if _length(y) > radius:
        # Rounding may leave the length at the upper end just above Δ.
        y = coordinates(scipy.optimize.brentq(excess, low, 2 * high, xtol=1e-300, rtol=1e-14, disp=False))
    # The hard case: an eigenvector of the lowest eigenvalue fills up the length.
    rest = 1 - float((y[1:] / radius).square().sum())
    y[0] = (1.0 if y[0] > 0 else -1.0) * radius * max(rest, 0.0) ** 0.5
    return _step(values, vectors, c, y, unit, on_boundary=True)


def _step(values: Tensor, vectors: Tensor, c: Tensor, y: Tensor, unit: int, *, on_boundary: bool) -> Step:
    decrease = -float(columns.ldexp(c @ y + 0.5 * (values * y) @ y, unit))
    return Step(vectors @ y, _length(y), decrease, on_boundary)


def _length(y: Tensor) -> float:
    # Its square may be out of range.
    exponent = columns.exponents(y.abs().max())
    return float(columns.ldexp(columns.ldexp(y, -exponent).norm(), exponent))
