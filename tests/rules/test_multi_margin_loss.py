"""Multi-class margin loss: with p = 2 a sum of squared gaps, with p = 1 linear between kinks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse

from .judge import assert_right, assert_thrice_differentiable, refusal

TARGET = torch.tensor([1, 0, 3])
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 1.5], dtype=torch.float64)


def through_the_loss(**options: object) -> Callable[[Tensor], Tensor]:
    def func(x: Tensor) -> Tensor:
        loss = F.multi_margin_loss(x.sin() * x, TARGET, **options)  # type: ignore[arg-type]  # one of each kind
        return (loss.exp() * torch.arange(1.0, loss.numel() + 1, dtype=x.dtype).reshape(loss.shape)).sum()

    return func


def point() -> Tensor:
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


OPTIONS = [
    {"p": p, "margin": margin, "weight": weight, "reduction": reduction}
    for p in (1, 2)
    for margin, weight in ((1.0, None), (0.3, WEIGHT))
    for reduction in ("mean", "sum", "none")
]


def test_pytorch_has_no_second_derivative() -> None:
    assert "aten::multi_margin_loss_backward" in refusal(through_the_loss(), (point(),))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.one_in(5)
def test_products_agree_with_differences_of_the_gradient(options: dict[str, object]) -> None:
    assert_right(through_the_loss(**options), (point(),))


def test_third_derivatives_agree_with_differences_of_products() -> None:
    assert_thrice_differentiable(through_the_loss(p=2, weight=WEIGHT), (point(),))


def test_a_single_sample_without_a_batch_is_right() -> None:
    assert_right(lambda x: F.multi_margin_loss(x, torch.tensor(2), p=2) ** 2, (point()[0],))


def test_the_hessian_with_squares_is_the_closed_form() -> None:
    # Every gap is positive, so the loss is (1/3) Σ (1 - x_0 + x_j)², j = 1, 2.
    dense = hesse.Hessian(lambda x: F.multi_margin_loss(x, torch.tensor([0]), p=2), torch.zeros(1, 3).double())
    expected = torch.tensor([[4.0, -2, -2], [-2, 2, 0], [-2, 0, 2]], dtype=torch.float64) / 3
    torch.testing.assert_close(dense.to_dense(), expected)


def test_with_p_one_the_hessian_is_zero_at_a_kink() -> None:
    x = torch.tensor([[1.0, 0.0, 0.5]], dtype=torch.float64)
    assert not hesse.Hessian(lambda x: F.multi_margin_loss(x, torch.tensor([0])), x).to_dense().any()
