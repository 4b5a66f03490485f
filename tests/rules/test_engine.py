"""What a backward wants of a node, which PyTorch's ``needs_input_grad`` does not tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hesse._rules.engine import wanted


class Product(torch.autograd.Function):
    seen: tuple[bool, ...] = ()

    @staticmethod
    def forward(ctx: Any, a: Tensor, number: float, b: Tensor, constant: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        Product.seen = tuple(wanted(ctx))
        a, b = ctx.saved_tensors
        return cotangent * b, None, cotangent * a, None


@pytest.mark.private
def test_leaves_and_others_are_wanted_when_they_are_asked_for() -> None:
    leaf, other, constant = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(2)
    made = other * 2
    product = Product.apply(leaf, 3.0, made, constant).sum()
    for asked, expected in (
        ((leaf,), (True, False, False)),
        ((other,), (False, True, False)),
        ((made,), (False, True, False)),
        ((leaf, other), (True, True, False)),
    ):
        torch.autograd.grad(product, asked, retain_graph=True)
        assert Product.seen == expected
    product.backward()
    assert Product.seen == (True, True, False)
