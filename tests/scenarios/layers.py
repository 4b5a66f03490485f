"""Convolutions, pools, normalizations and resampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import by_parameters
from .scenario import Case, draw, scenario


@scenario
def layer_norm() -> Case:
    weights = draw(3, 5)
    return Case(
        lambda x, scale, shift: (weights * torch.sin(F.layer_norm(x, (5,), scale, shift))).sum(),
        (draw(3, 5), draw(5), draw(5)),
    )


@scenario
def rms_norm() -> Case:
    weights = draw(3, 5)
    return Case(lambda x, scale: (weights * torch.sin(F.rms_norm(x, (5,), scale))).sum(), (draw(3, 5), draw(5)))


@scenario
def group_norm() -> Case:
    weights = draw(2, 4, 3)
    return Case(
        lambda x, scale, shift: (weights * torch.sin(F.group_norm(x, 2, scale, shift))).sum(),
        (draw(2, 4, 3), draw(4), draw(4)),
    )


@scenario
def group_norm_of_square_groups() -> Case:
    # As many channels in a group as places: sizes at which a transposition by mistake goes unnoticed.
    weights = draw(2, 4, 2)
    return Case(lambda x: (weights * torch.sin(F.group_norm(x, 2))).sum(), draw(2, 4, 2))


@scenario
def instance_norm() -> Case:
    weights = draw(2, 3, 4)
    return Case(lambda x: (weights * torch.sin(F.instance_norm(x))).sum(), draw(2, 3, 4))


def _batch_norm(*, training: bool) -> Case:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    batch_norm = model[1]
    batch_norm.running_mean.copy_(draw(4))
    batch_norm.running_var.copy_(0.5 + torch.rand(4))
    return by_parameters(model.train(training), lambda output: (output**2).mean(), draw(12, 3))


@scenario
def batch_norm_in_evaluation() -> Case:
    return _batch_norm(training=False)


@scenario
def batch_norm_in_training() -> Case:
    return _batch_norm(training=True)


@scenario
def small_convolutional_network() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Softplus(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(),
        nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip
    labels = torch.tensor([0, 2, 1])
    return by_parameters(model, lambda logits: F.cross_entropy(logits, labels), draw(3, 1, 4, 4))


@scenario
def convolution_followed_by_group_norm() -> Case:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.GroupNorm(2, 4), nn.Tanh())
    return by_parameters(model, lambda output: (output**3).mean(), draw(2, 2, 3, 3))


@scenario
def convolution_by_image_and_kernel() -> Case:
    return Case(
        lambda image, kernel: torch.tanh(F.conv2d(image, kernel, stride=2, padding=1)).sum(),
        (draw(1, 2, 4, 4), draw(2, 2, 3, 3)),
    )


@scenario
def grouped_dilated_convolution() -> Case:
    return Case(
        lambda signal, kernel: (F.conv1d(signal, kernel, groups=2, dilation=2, padding="same") ** 3).sum(),
        (draw(2, 4, 5), draw(4, 2, 2)),
    )


@scenario
def transposed_convolution() -> Case:
    return Case(
        lambda signal, kernel: (F.conv_transpose1d(signal, kernel, stride=2) ** 3).sum(),
        (draw(1, 2, 4), draw(2, 2, 3)),
    )


@scenario
def average_pool() -> Case:
    return Case(lambda x: (F.avg_pool2d(x, 2, stride=1, padding=1) ** 3).sum(), draw(1, 2, 3, 3))


@scenario
def max_pool() -> Case:
    return Case(lambda x: (F.max_pool2d(x, 2, stride=1) ** 3).sum(), draw(1, 2, 4, 4))


@scenario
def max_pool_and_its_inverse() -> Case:
    def func(x: Tensor) -> Tensor:
        pooled, places = F.max_pool3d(x, 2, return_indices=True)
        return (F.max_unpool3d(pooled**2, places, 2) * torch.sin(x)).sum()

    return Case(func, draw(1, 1, 4, 2, 4))


@scenario
def adaptive_average_pool() -> Case:
    return Case(lambda x: (F.adaptive_avg_pool2d(x, (2, 3)) ** 3).sum(), draw(1, 2, 5, 4))


@scenario
def bilinear_interpolation() -> Case:
    return Case(
        lambda x: (F.interpolate(x, size=(5, 4), mode="bilinear", align_corners=False) ** 3).sum(),
        draw(1, 2, 3, 3),
    )


@scenario
def bicubic_interpolation() -> Case:
    return Case(
        lambda x: (F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=False) ** 3).sum(),
        draw(1, 1, 4, 4),
    )


@scenario
def grid_sample_by_image_and_grid() -> Case:
    # Bilinear sampling has a kink at each pixel centre (odd sixths here); these points stay off them.
    grid = torch.tensor([[[[-0.5, 0.1], [0.3, -0.4]], [[0.12, 0.5], [-0.2, 0.25]]]], dtype=torch.float64)
    return Case(
        lambda image, grid: (F.grid_sample(image, grid, align_corners=False) ** 3).sum(),
        (draw(1, 2, 3, 3), grid),
    )


@scenario
def spatial_transformer() -> Case:
    image = draw(1, 1, 4, 4)
    theta = torch.tensor([[[0.8, 0.1, 0.05], [-0.15, 0.7, -0.03]]], dtype=torch.float64)

    def func(theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta, (1, 1, 3, 3), align_corners=False)
        return (F.grid_sample(image, grid, align_corners=False) ** 3).sum()

    return Case(func, theta)


@scenario
def unfold_and_fold_of_patches() -> Case:
    def func(x: Tensor) -> Tensor:
        patches = F.unfold(x, 2)
        return (F.fold(torch.tanh(patches) * patches, (3, 3), 2) ** 2).sum()

    return Case(func, draw(1, 2, 3, 3))


@scenario
def pixel_shuffle_and_padding() -> Case:
    def func(x: Tensor) -> Tensor:
        return (F.pad(F.pixel_shuffle(x, 2), (1, 2, 1, 0), mode="reflect") ** 3).sum()

    return Case(func, draw(1, 4, 2, 2))


@scenario
def local_response_norm() -> Case:
    return Case(lambda x: (F.local_response_norm(x, 3, alpha=0.5) ** 2).sum(), draw(1, 4, 3))
