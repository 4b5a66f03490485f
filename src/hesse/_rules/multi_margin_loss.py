r"""Multi-class margin loss: :math:`\frac1C \sum_{j \ne y} w_y \max(0, m - x_y + x_j)^p` for p = 1 or 2.

The gradient by :math:`x_j` of a sample is :math:`s_j = \frac{p\,w_y}{C} \max(0, m - x_y + x_j)^{p-1}` for
:math:`j \ne y`, and :math:`-\sum_{j \ne y} s_j` by :math:`x_y`. With p = 1 it is constant between the kinks, where
PyTorch's convention is zero.

Source: Crammer, Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines" (2001); the
exponent and the weights are those of PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._rules.rule import rule

MEAN = 1
"""What aten calls the reduction "mean"."""


@rule("aten::multi_margin_loss_backward")
def multi_margin_loss_backward(
    cotangent: Tensor,
    x: Tensor,
    target: Tensor,
    p: float,
    margin: float,
    weight: Tensor | None,
    reduction: int,
) -> Tensor:
    """The cotangent of each sample times its slopes."""
    classes = x.shape[-1] if x.dim() else 1
    samples = x.reshape(-1, classes)
    labels = target.reshape(-1, 1)
    gap = margin - samples.gather(1, labels) + samples
    others = (gap > 0) & (torch.arange(classes, device=x.device) != labels)
    slopes = (others.to(x.dtype) if p == 1 else 2 * torch.where(others, gap, 0)) / classes
    if weight is not None:
        slopes = slopes * weight[labels]
    slopes = slopes.scatter_add(1, labels, -slopes.sum(1, keepdim=True))
    scale = cotangent.reshape(-1, 1)
    return (slopes * (scale / len(samples) if reduction == MEAN else scale)).reshape(x.shape)
