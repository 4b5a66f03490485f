r"""``torch.polar``: :math:`r e^{i \varphi} = r \cos \varphi + i r \sin \varphi`.

PyTorch's gradient by the radius is that of its modulus: zero where :math:`r = 0`, and of the wrong sign below, without
a word, in the first derivative.

Source: https://docs.pytorch.org/docs/stable/generated/torch.polar.html
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.rule import rule


@rule("aten::polar")
def polar(radius: Tensor, angle: Tensor) -> Tensor:
    """By its real and imaginary part."""
    return torch.complex(radius * angle.cos(), radius * angle.sin())
