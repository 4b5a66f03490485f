r"""Multi-label margin loss: :math:`\frac1C \sum_{j \in Y} \sum_{i \notin Y} \max(0, 1 - x_j + x_i)`.

:math:`Y` are the labels before the first -1; one that is named twice counts twice. The gradient of a cotangent is
linear in it and constant in :math:`x` between the kinks: each active pair takes :math:`1/C` from :math:`x_j` and gives
it to :math:`x_i`. At the kinks PyTorch's convention is zero.

Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelMarginLoss.html
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.multi_margin_loss import MEAN
from hesse._rules.rule import rule


@rule("aten::multilabel_margin_loss_backward")
def multilabel_margin_loss_backward(
    cotangent: Tensor, x: Tensor, target: Tensor, reduction: int, is_target: Tensor
) -> Tensor:
    """The cotangent of each sample times its slopes."""
    classes = x.shape[-1] if x.dim() else 1
    samples = x.reshape(-1, classes)
    labels = target.reshape(-1, classes)
    named = (labels >= 0).to(x.dtype).cumprod(1)
    times = torch.zeros_like(samples).scatter_add(1, labels.clamp(min=0), named)
    # Pair (j, i) of a sample: label j against class i.
    active = (1 - samples[:, :, None] + samples[:, None, :] > 0) & (is_target.reshape(-1, 1, classes) == 0)
    pairs = active.to(x.dtype) * times[:, :, None] / classes
    slopes = pairs.sum(1) - pairs.sum(2)
    scale = cotangent.reshape(-1, 1)
    return (slopes * (scale / len(samples) if reduction == MEAN else scale)).reshape(x.shape)
