r"""LayerNorm, GroupNorm, BatchNorm, and with it InstanceNorm: :math:`y = w \hat x + b`, :math:`\hat x = r (x - \mu)`.

:math:`\mu` is the mean and :math:`r = 1/\sqrt{v + \epsilon}` with the variance :math:`v`, over the places that are
normalized together. With means over those places as bars, the gradient of a cotangent :math:`g` by :math:`x` is
:math:`r (h - \bar h - \hat x \, \overline{h \hat x})` where :math:`h = w g`; by :math:`w` and :math:`b` it is
:math:`g \hat x` and :math:`g`, summed over all places that share an entry of them.

PyTorch has double backwards for these, which take the statistics for constants: third derivatives through them are
wrong, without a word. With a bias but no weight there is none, nor for a group norm or a batch norm in evaluation.

Source: Ioffe, Szegedy, "Batch Normalization" (2015), https://arxiv.org/abs/1502.03167; Ba, Kiros, Hinton, "Layer
Normalization" (2016), https://arxiv.org/abs/1607.06450
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hesse._rules.rule import rule
from hesse._rules.scope import differentiated_once_more

Gradients = tuple[Tensor, Tensor, Tensor]


def _layer_is_needed(arguments: Sequence[Any]) -> bool:
    weight, bias = arguments[5:7]
    return (weight is None and bias is not None) or not differentiated_once_more()


def _batch_is_needed(arguments: Sequence[Any]) -> bool:
    weight, in_training = arguments[2], arguments[7]
    # Without a weight PyTorch's double backward raises where there is a bias, which is not told here.
    return weight is None or (in_training and not differentiated_once_more())


def _group_is_needed(arguments: Sequence[Any]) -> bool:
    _, weight, bias = arguments[:3]
    return weight is None and bias is not None


def _fused_batch_is_needed(arguments: Sequence[Any]) -> bool:
    return not differentiated_once_more()


@rule("aten::native_layer_norm_backward", where=_layer_is_needed)
def layer_norm_backward(
    cotangent: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> Gradients:
    """The gradients by input, weight and bias."""
    others = x.dim() - len(normalized_shape)
    return _gradients(cotangent, x, weight, rstd, list(range(others, x.dim())), list(range(others)))


@rule("aten::native_batch_norm_backward", where=_batch_is_needed)
def batch_norm_backward(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> Gradients:
    """The gradients by input, weight and bias."""
    if train:
        return _batch_gradients(cotangent, x, weight, save_invstd)
    assert running_mean is not None
    assert running_var is not None
    shape, dims = _of_channels(x)
    rstd = (running_var + eps).rsqrt().reshape(shape)
    by_input = cotangent * rstd if weight is None else cotangent * rstd * weight.reshape(shape)
    by_weight = cotangent * (x - running_mean.reshape(shape)) * rstd
    return by_input.to(x.dtype), by_weight.sum(dims), cotangent.sum(dims)


def _fused_batch_norm_backward(
    x: Tensor,
    cotangent: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor,
    eps: float,
    *reserve: Tensor,
) -> Gradients:
    """The same of cuDNN's and of MIOpen's kernel, which run in training only and take tensors of 16 bits as well."""
    by_input, by_weight, by_bias = _batch_gradients(cotangent, x, weight, save_invstd)
    return by_input, by_weight.to(weight.dtype), by_bias.to(weight.dtype)


for _name in ("aten::cudnn_batch_norm_backward", "aten::miopen_batch_norm_backward"):
    rule(_name, where=_fused_batch_is_needed)(_fused_batch_norm_backward)


@rule("aten::native_group_norm", where=_group_is_needed)
def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: int,
    channels: int,
    places: int,
    groups: int,
    eps: float,
) -> Gradients:
    """The layer, the means and the inverse deviations."""
    grouped = x.reshape(rows, groups, -1)
    mean = grouped.mean(2, keepdim=True)
    rstd = ((grouped - mean).square().mean(2, keepdim=True) + eps).rsqrt()
    y = ((grouped - mean) * rstd).reshape(x.shape)
    shape, _ = _of_channels(x)
    y = y if weight is None else y * weight.reshape(shape)
    y = y if bias is None else y + bias.reshape(shape)
    return y, mean.reshape(rows, groups), rstd.reshape(rows, groups)


def _of_channels(x: Tensor) -> tuple[list[int], list[int]]:
    """The shape of a vector of channels that is spread over x, and the dimensions it is spread over."""
    return [1, -1, *[1] * (x.dim() - 2)], [0, *range(2, x.dim())]


def _batch_gradients(cotangent: Tensor, x: Tensor, weight: Tensor | None, save_invstd: Tensor) -> Gradients:
    shape, dims = _of_channels(x)
    scale = None if weight is None else weight.reshape(shape)
    return _gradients(cotangent, x, scale, save_invstd.reshape(shape), dims, dims)


def _gradients(
    cotangent: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor, normalized: list[int], shared: list[int]
) -> Gradients:
    centered = x - x.mean(normalized, keepdim=True)
    variance = centered.square().mean(normalized, keepdim=True)
    # The number is the forward's, which has an epsilon that is not told here; the dependence on x is the formula's.
    factor = (rstd.detach() ** -2 + variance - variance.detach()) ** -0.5
    scaled = centered * factor
    weighted = cotangent if weight is None else cotangent * weight
    mean_product = (weighted * scaled).mean(normalized, keepdim=True)
    by_input = factor * (weighted - weighted.mean(normalized, keepdim=True) - scaled * mean_product)
    by_weight = cotangent * scaled
    if shared:
        return by_input.to(x.dtype), by_weight.sum(shared), cotangent.sum(shared)
    return by_input.to(x.dtype), by_weight, cotangent
