r"""LayerNorm with a bias but no weight: :math:`y = (x - \mu)/\sqrt{v + \epsilon} + b`.

The gradient of a cotangent :math:`g` by :math:`x` is :math:`r \, (g - \bar g - \hat x \, \overline{g \hat x})`, where
:math:`\hat x = r (x - \mu)`, :math:`r = 1/\sqrt{v + \epsilon}` and bars are means over the normalized dimensions; by
:math:`b` it is :math:`g` summed over the others. PyTorch's own double backward reaches for the weight that is not there.

Source: Ba, Kiros, Hinton, "Layer Normalization" (2016), https://arxiv.org/abs/1607.06450
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse.rules.rule import rule


def _has_bias_alone(arguments: Sequence[Any]) -> bool:
    weight, bias = arguments[5:7]
    return weight is None and bias is not None


@rule("aten::native_layer_norm_backward", where=_has_bias_alone)
def layer_norm_backward(
    cotangent: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients by input and bias. PyTorch has one of a layer without parameters, for the first."""
    others = list(range(x.dim() - len(normalized_shape)))
    by_bias = cotangent.sum(others) if others else cotangent
    # The places of a layer without a weight and a bias, whose double backward is right. The statistics are constants
    # there: that double backward sees them as functions of the input.
    by_input = torch.ops.aten.native_layer_norm_backward(
        cotangent, x, normalized_shape, mean.detach(), rstd.detach(), None, None, [output_mask[0], False, False]
    )[0]
    return by_input, None, by_bias
