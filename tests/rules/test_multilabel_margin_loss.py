"""Multi-label margin loss: linear between kinks, so that a function of it has the Hessian of that function's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse

from .judge import assert_right, assert_thrice_differentiable, refusal

TARGET = torch.tensor([[3, 0, -1, 1, 2], [2, 2, -1, -1, -1], [-1, 0, 1, 2, 3]])
"""The last labels of the first sample stand behind -1; the second names a label twice; the third has none."""


def through_the_loss(reduction: str) -> Callable[[Tensor], Tensor]:
    def func(x: Tensor) -> Tensor:
        loss = F.multilabel_margin_loss(x.sin() * x, TARGET, reduction=reduction)
        return (loss.exp() * torch.arange(1.0, loss.numel() + 1, dtype=x.dtype).reshape(loss.shape)).sum()

    return func


def point() -> Tensor:
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_pytorch_has_no_second_derivative() -> None:
    assert "aten::multilabel_margin_loss_backward" in refusal(through_the_loss("mean"), (point(),))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_products_agree_with_differences_of_the_gradient(reduction: str) -> None:
    assert_right(through_the_loss(reduction), (point(),))


def test_third_derivatives_agree_with_differences_of_products() -> None:
    assert_thrice_differentiable(through_the_loss("none"), (point(),))


def test_a_single_sample_without_a_batch_is_right() -> None:
    assert_right(lambda x: F.multilabel_margin_loss(x, TARGET[0]) ** 2, (point()[0],))


def test_the_hessian_of_the_squared_loss_is_twice_the_square_of_its_gradient() -> None:
    # One label, 0, and both other gaps positive: the loss is (1/3) Σ (1 - x_0 + x_j), j = 1, 2.
    target = torch.tensor([[0, -1, -1]])
    dense = hesse.Hessian(lambda x: F.multilabel_margin_loss(x, target) ** 2, torch.zeros(1, 3).double()).to_dense()
    gradient = torch.tensor([-2.0, 1.0, 1.0], dtype=torch.float64) / 3
    torch.testing.assert_close(dense, 2 * torch.outer(gradient, gradient))
