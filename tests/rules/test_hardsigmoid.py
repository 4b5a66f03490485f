"""Hardsigmoid: linear between -3 and 3, so that the Hessian of a function of it is that of a clamped line."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import hesse

from .judge import assert_right, assert_thrice_differentiable, refusal


def through_hardsigmoid(x: Tensor) -> Tensor:
    return (F.hardsigmoid(x) ** 3 * x).sum()


def test_pytorch_has_no_second_derivative() -> None:
    assert "aten::hardsigmoid_backward" in refusal(through_hardsigmoid, (torch.rand(3),))


def test_products_agree_with_differences_of_the_gradient() -> None:
    assert_right(through_hardsigmoid, (torch.tensor([-4.0, -2.5, -0.1, 0.7, 2.9, 3.5], dtype=torch.float64),))


def test_third_derivatives_agree_with_differences_of_products() -> None:
    assert_thrice_differentiable(through_hardsigmoid, (torch.tensor([-2.5, 0.7, 3.5], dtype=torch.float64),))


def test_the_hessian_is_that_of_the_closed_form_and_zero_outside_and_at_the_kinks() -> None:
    x = torch.tensor([-5.0, -3.0, -1.0, 0.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    dense = hesse.Hessian(lambda x: (F.hardsigmoid(x) ** 2).sum(), x).to_dense()
    torch.testing.assert_close(dense, torch.diag(torch.where(x.abs() < 3, 1 / 18, 0.0)).double())
