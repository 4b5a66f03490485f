r"""Weight normalization, :math:`w = g \, v / \lVert v \rVert`, with a norm for each slice along a dimension.

PyTorch's double backward takes the norms, which the forward has saved, for constants: second derivatives by :math:`v`
are wrong, without a word, and not even symmetric.

Source: Salimans, Kingma, "Weight Normalization" (2016), https://arxiv.org/abs/1602.07868, equation 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.pullback import Outputs, pullback
from hesse._rules.rule import rule


@rule("aten::_weight_norm_differentiable_backward")
def weight_norm_backward(cotangent: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> Outputs:
    """The gradients by v and g."""
    return pullback(lambda v, g: v * (g / torch.norm_except_dim(v, 2, dim)), [v, g], [0, 1], [cotangent])
