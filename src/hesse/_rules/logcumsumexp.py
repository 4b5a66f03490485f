r"""``torch.logcumsumexp``: :math:`y_i = \log \sum_{j \le i} e^{x_j}`.

PyTorch's gradient takes logarithms of its cotangents, whose derivative is NaN where a cotangent is zero: so are J·v and
every product by double backward. Here neighbors are added in pairs, then pairs of pairs, and so on.

Source: Hillis and Steele, "Data parallel algorithms", Communications of the ACM 29 (1986) 1170–1183.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._rules.logaddexp import add_exponentials
from hesse._rules.rule import rule


def _is_real_sum(arguments: Sequence[Any]) -> bool:
    x, _ = arguments
    return not x.is_complex() and x.dim() > 0


@rule("aten::logcumsumexp", where=_is_real_sum)
def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """Sums over the last 1, 2, 4, … entries."""
    count, span = x.shape[dim], 1
    while span < count:
        added = add_exponentials(x.narrow(dim, span, count - span), x.narrow(dim, 0, count - span))
        x, span = torch.cat([x.narrow(dim, 0, span), added], dim), 2 * span
    return x
