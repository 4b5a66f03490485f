r"""``torch.logit`` with ``eps``: :math:`\log(x / (1 - x))` of x clamped to :math:`[\epsilon, 1 - \epsilon]`.

Outside its derivatives are zero. PyTorch's second derivative there is zero times that of the logarithm, which is not
finite at 0 and 1.

Source: https://docs.pytorch.org/docs/stable/special.html#torch.special.logit
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.rule import rule


def _clamps(arguments: Sequence[Any]) -> bool:
    return arguments[1] is not None


@rule("aten::logit", where=_clamps)
def logit(x: Tensor, eps: float | None) -> Tensor:
    """The logarithm inside, and constants outside."""
    if eps is None:  # PyTorch's own code for a transform calls every rule
        return x.log() - (1 - x).log()
    inside = ~((x < eps) | (x > 1 - eps))  # a NaN stays one
    z = torch.where(inside, x, 0.5)
    return torch.where(inside, z.log() - (1 - z).log(), x.detach().clamp(eps, 1 - eps).logit())
