"""as_strided_scatter: the same by indexing, whose first derivative is right too."""

from __future__ import annotations

import torch
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import vectors_like


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def wavy(y: Tensor) -> Tensor:
    return (y.sin() * torch.arange(1.0, y.numel() + 1, dtype=DOUBLE).reshape(y.shape)).sum().sin()


def scattered(x: Tensor, source: Tensor) -> Tensor:
    return wavy(torch.as_strided_scatter(x, source, (2, 2), (1, 3), 1))


def by_hand(x: Tensor, source: Tensor) -> Tensor:
    places = torch.tensor([1, 4, 2, 5])
    return wavy(x.flatten().index_put((places,), source.flatten()).reshape(3, 3))


def test_pytorchs_gradient_is_wrong() -> None:
    x, source = draw(3, 3).requires_grad_(), draw(2, 2, seed=1)
    theirs = torch.autograd.grad(scattered(x, source), x)[0]
    assert (theirs - torch.autograd.grad(by_hand(x, source), x)[0]).abs().max() > 0.1


def test_gradients_and_products_are_those_by_indexing() -> None:
    inputs = draw(3, 3), draw(2, 2, seed=1)
    v = vectors_like(inputs)
    H = hesse.Hessian(scattered, inputs)
    expected = torch.autograd.functional.vhp(by_hand, inputs, v)[1]
    assert_values(H.gradient, torch.func.grad(by_hand, argnums=(0, 1))(*inputs))
    for product in (H @ v, hesse.vhp(scattered, inputs, v)[1], hesse.hvp(scattered, inputs, v)[1]):
        assert_values(product, expected)
