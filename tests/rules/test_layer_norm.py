"""LayerNorm with a bias but no weight, which PyTorch's double backward does not know."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable, refusal, vectors_like


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def through_the_layer(x: Tensor, bias: Tensor, weight: Tensor | None = None) -> Tensor:
    normalized = F.layer_norm(x.sin(), bias.shape, weight, bias)
    return (normalized.sin() * torch.arange(1.0, x.numel() + 1, dtype=DOUBLE).reshape(x.shape)).sum()


def test_pytorch_has_no_second_derivative() -> None:
    assert "Expected a proper Tensor but got None" in refusal(through_the_layer, (draw(2, 3), draw(3, seed=1)))


@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((2, 2, 3), (2, 3)), ((4,), (4,))], ids=str)
def test_products_agree_with_differences_of_the_gradient(shapes: Sequence[tuple[int, ...]]) -> None:
    assert_right(through_the_layer, (draw(*shapes[0]), draw(*shapes[1], seed=1)))


def test_products_by_the_input_alone_and_by_the_bias_alone_are_right() -> None:
    x, bias = draw(2, 3), draw(3, seed=1)
    assert_right(lambda x: through_the_layer(x, bias), (x,))
    assert_right(lambda bias: through_the_layer(x, bias), (bias,))


def test_third_derivatives_agree_with_differences_of_products() -> None:
    assert_thrice_differentiable(through_the_layer, (draw(2, 3), draw(3, seed=1)))


def test_the_product_is_that_of_a_weight_of_ones() -> None:
    inputs = draw(2, 3), draw(3, seed=1)
    v = vectors_like(inputs)
    ones = torch.ones(3, dtype=DOUBLE)
    expected = torch.autograd.functional.vhp(lambda x, bias: through_the_layer(x, bias, ones), inputs, v)[1]
    assert_values(hesse.vhp(through_the_layer, inputs, v)[1], expected)
