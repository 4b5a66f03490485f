r"""``torch.sinc``: :math:`\sin(t) / t`, :math:`t = \pi x`.

PyTorch differentiates a quotient, whose second derivative is NaN at zero and loses all digits near it. For
:math:`|t| \le 1` it is the series :math:`\sum_k (-t^2)^k / (2k + 1)!`.

Source: https://dlmf.nist.gov/4.19.E1 for the series.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesse._rules.rule import rule

# The next one is below the rounding of float64, in derivatives up to the sixth too.
_TERMS = 13


@rule("aten::sinc")
def sinc(x: Tensor) -> Tensor:
    """The series near zero, and the quotient elsewhere."""
    t = math.pi * x
    near = t.abs() <= 1
    minus_square = -torch.where(near, t, 0).square()
    series = torch.zeros_like(t)
    for k in reversed(range(_TERMS)):
        series = series * minus_square + 1 / math.factorial(2 * k + 1)
    away = torch.where(near, 1, t)
    return torch.where(near, series, away.sin() / away)
