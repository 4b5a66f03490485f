r"""``torch.logaddexp`` and ``logaddexp2``: :math:`\log(e^x + e^y) = a + \log(1 + e^{b - a})`, a the larger one.

PyTorch's gradient divides by :math:`1 + e^{y - x}`, which overflows where the two are far apart, and its derivative is
NaN there. With a the larger one the exponential is at most one.

Source: https://docs.pytorch.org/docs/stable/generated/torch.logaddexp.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hesse._rules.rule import rule


def _are_real(arguments: Sequence[Any]) -> bool:
    return not any([argument.is_complex() for argument in arguments])


@rule("aten::logaddexp", where=_are_real)
def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """The larger one and a correction."""
    return add_exponentials(x, y)


@rule("aten::logaddexp2", where=_are_real)
def logaddexp2(x: Tensor, y: Tensor) -> Tensor:
    """The same in base two."""
    return add_exponentials(x, y, math.log(2))


def add_exponentials(x: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
    """The logarithm of the sum of the exponentials, to the base whose natural logarithm is ``factor``."""
    # Not maximum and minimum, which part the derivative where both are equal.
    larger, smaller = torch.where(x > y, x, y), torch.where(x > y, y, x)
    gap = torch.where((larger == smaller) & larger.isinf(), 0, smaller - larger)
    return larger + F.softplus(gap * factor) / factor
