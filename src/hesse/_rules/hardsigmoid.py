r"""Hardsigmoid: :math:`\min(\max(x/6 + 1/2, 0), 1)`, piecewise linear.

The gradient of a cotangent :math:`g` is :math:`g/6` where :math:`-3 < x < 3` and zero elsewhere, linear in :math:`g`
and constant in :math:`x`; at the kinks PyTorch's convention is zero.

Source: Courbariaux, Bengio, David, "BinaryConnect" (2015), section 2.3; the slope is that of PyTorch.
"""

from __future__ import annotations

from torch import Tensor

from hesse._rules.rule import rule


@rule("aten::hardsigmoid_backward")
def hardsigmoid_backward(cotangent: Tensor, x: Tensor) -> Tensor:
    """g · [-3 < x < 3] / 6."""
    return cotangent * ((x > -3) & (x < 3)).to(x.dtype) / 6
