r"""``x ** y`` of tensors, real or complex, where an exponent or a base is zero.

Where y is zero the power is :math:`e^{y \log x}`: PyTorch's derivative by x leaves out :math:`y x^{y-1}` there, so that
the mixed second derivative, which is :math:`1 / x`, is zero without a word, and at :math:`x = 0` it is NaN instead of
zero. Where x is zero and :math:`\operatorname{Re} y > 1`, derivatives by y vanish; PyTorch's second ones are NaN. So
they are where x is the number zero. Where one of x and y is complex and the other real, PyTorch's forward mode keeps
the real part of the tangent alone, without a word: the rules convert both. ``x ** (1 + 2j)`` of a real x has no rule,
which would cost each ``x ** 2`` more than it takes.

Source: elementary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.forward_mode import is_on
from hesse._rules.batches import has_values
from hesse._rules.rule import rule
from hesse._rules.scope import put, put_back


def _is_needed(arguments: Sequence[Any]) -> bool:
    x, y = arguments
    # What cannot be decided by values now is right by the rule too, which takes longer.
    if not (has_values(x) and has_values(y)) or (is_on() and x.is_complex() != y.is_complex()):
        return True
    if x.is_complex() or y.is_complex():
        return bool((y == 0).any()) or (y.requires_grad and bool(((x == 0) & (y.real > 1)).any()))
    if y.requires_grad:
        # Of a negative number no derivative by the exponent exists: PyTorch's is not a number.
        return bool((((y == 0) & (x >= 0)) | ((x == 0) & (y > 1))).any()) and not bool(((y == 0) & (x < 0)).any())
    return bool((y == 0).any())


@rule("aten::pow.Tensor_Tensor", where=_is_needed)
def power(x: Tensor, y: Tensor) -> Tensor:
    """The exponential where y is zero, a power of constant exponent where x is, and the power elsewhere."""
    is_complex = x.is_complex() or y.is_complex()
    if is_complex:
        dtype = torch.result_type(x, y)
        x, y = x.to(dtype), y.to(dtype)
    by_exponential, by_constant = y == 0, (x == 0) & (y.real > 1)
    base = torch.where(by_exponential & (x != 0), x, 1)
    exponential = (torch.where(by_exponential, y, 0) * (base if is_complex else base.abs()).log()).exp()
    # These powers are PyTorch's: the rule would call itself where values are not known.
    held = put(False)
    try:
        constant = torch.where(by_constant, x, 1) ** torch.where(by_constant, y.detach(), 1)
        other = torch.where(by_exponential | by_constant, 1, x) ** torch.where(by_exponential | by_constant, 1, y)
    finally:
        put_back(held)
    return torch.where(by_exponential, exponential, torch.where(by_constant, constant, other))


def _of_number(arguments: Sequence[Any]) -> bool:
    x, y = arguments
    return not y.is_complex() and (x == 0 or (is_on() and isinstance(x, complex)))


@rule("aten::pow.Scalar", where=_of_number)
def number_to_power(x: float | complex, y: Tensor) -> Tensor:
    """Of zero a constant almost everywhere: infinity, one or zero; of a complex number the power of a complex one."""
    if x != 0:
        raised: Tensor = x ** y.to(torch.result_type(x, y))
        return raised
    return torch.where(y < 0, torch.inf, (y == 0).to(y.dtype)) + 0 * torch.where(y.isfinite(), y, 0)
