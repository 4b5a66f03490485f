r"""``torch.ldexp``: :math:`x \cdot 2^y`.

PyTorch's gradient by x takes the power in the dtype of y: it is zero, without a word, where y holds negative integers.
Its tangent is wrong too.

Source: https://docs.pytorch.org/docs/stable/generated/torch.ldexp.html
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.rule import rule


@rule("aten::ldexp.Tensor")
def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """The power in floating point."""
    return x * torch.pow(2.0, exponent)
