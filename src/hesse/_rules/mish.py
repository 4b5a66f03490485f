r"""Mish, :math:`x \tanh(\log(1 + e^x))`, without exponentials that overflow.

With :math:`u = e^{-|x|}` the hyperbolic tangent is :math:`(1 + 2u) / (1 + 2u + 2u^2)` for :math:`x \ge 0` and
:math:`(u^2 + 2u) / (u^2 + 2u + 2)` for :math:`x < 0`. PyTorch's second derivative is NaN where :math:`e^x` overflows,
for x above 88 in single precision.

Source: Misra, "Mish" (2019), https://arxiv.org/abs/1908.08681
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.batches import has_values
from hesse._rules.rule import rule

_FAR = 40.0
"""Far from overflow in every precision but that of float16."""


def _overflows(arguments: Sequence[Any]) -> bool:
    (x,) = arguments
    return not has_values(x) or bool((x > (_FAR if x.dtype != torch.float16 else 5.0)).any())


@rule("aten::mish", where=_overflows)
def mish(x: Tensor) -> Tensor:
    """x times the hyperbolic tangent as a quotient."""
    u = torch.where(x >= 0, -x, x).exp()
    tanh = torch.where(x >= 0, (1 + 2 * u) / (1 + 2 * u + 2 * u**2), (u**2 + 2 * u) / (u**2 + 2 * u + 2))
    return x * tanh
