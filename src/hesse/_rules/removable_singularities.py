r"""Functions that divide by their argument and are smooth at zero: sinc, and Bessel functions of order one.

PyTorch's derivatives divide differences that cancel near zero: at 1e-8 the second derivative of sinc is half of what
it should be. Here the functions are their power series where that is short, with :math:`t = \pi x`,

.. math::
    \operatorname{sinc} x = \sum_k \frac{(-t^2)^k}{(2k+1)!}, \quad
    J_1(x) = \frac x2 \sum_k \frac{(-x^2/4)^k}{k!\,(k+1)!}, \quad
    I_1(x) = \frac x2 \sum_k \frac{(x^2/4)^k}{k!\,(k+1)!},

for :math:`|t| < 1` and :math:`|x| < 1`; everywhere else they are PyTorch's own.

Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 4.3.65, 9.1.10 and 9.6.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hesse._rules.rule import rule
from hesse._rules.scope import operator_of, put, put_back

Function = Callable[[Tensor], Tensor]

# The first that is left out is less than the rounding of the sum.
_NUM_TERMS = 10
_SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in range(_NUM_TERMS)]
_I1 = [1 / (math.factorial(k) * math.factorial(k + 1)) for k in range(_NUM_TERMS)]
_J1 = [(-1) ** k * coefficient for k, coefficient in enumerate(_I1)]


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _sinc(x: Tensor) -> Tensor:
    return _polynomial(_SINC, (math.pi * x).square())


def _j1(x: Tensor) -> Tensor:
    return x / 2 * _polynomial(_J1, x.square() / 4)


def _i1(x: Tensor) -> Tensor:
    return x / 2 * _polynomial(_I1, x.square() / 4)


def _i1e(x: Tensor) -> Tensor:
    return _i1(x) * torch.exp(-x.abs())


def _register(name: str, series: Function, radius: float) -> None:
    operator = operator_of(name)
    # In some releases the operator is a constant to autograd, to which the series would give half a derivative.
    if operator is None or not operator(torch.ones((), requires_grad=True, device="cpu")).requires_grad:
        return

    def rewrite(x: Tensor) -> Tensor:
        near = x.abs() < radius
        held = put(False)  # the operator itself, and not its rule
        try:
            elsewhere = operator(torch.where(near, 1, x))
        finally:
            put_back(held)
        return torch.where(near, series(torch.where(near, x, 0)), elsewhere)

    rule(name, where=lambda arguments: arguments[0].dtype.is_floating_point or arguments[0].is_complex())(rewrite)


_register("aten::sinc", _sinc, 1 / math.pi)
_register("aten::special_bessel_j1", _j1, 1)
_register("aten::special_i1", _i1, 1)
_register("aten::special_i1e", _i1e, 1)
_register("aten::special_modified_bessel_i1", _i1, 1)
