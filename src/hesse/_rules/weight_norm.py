r"""Weight normalization, :math:`w = g \, d`, :math:`d = v / \lVert v \rVert`, a norm for each slice.

With sums over a slice, the gradient of a cotangent :math:`c` by :math:`g` is :math:`\sum c d`, and that by :math:`v` is
:math:`(g / \lVert v \rVert) (c - d \sum c d)`.

PyTorch's double backward takes the norms, which the forward has saved, for constants: second derivatives by :math:`v`
are wrong, without a word, and not even symmetric.

Source: Salimans, Kingma, "Weight Normalization" (2016), https://arxiv.org/abs/1602.07868, equation 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.rule import rule


@rule("aten::_weight_norm_differentiable_backward")
def weight_norm_backward(cotangent: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The gradients by v and g."""
    # Not the norms that are given, which autograd does not follow.
    norms = torch.norm_except_dim(v, 2, dim)
    direction = v / norms
    by_g = (cotangent * direction).sum_to_size(norms.shape)
    return g / norms * (cotangent - direction * by_g), by_g
