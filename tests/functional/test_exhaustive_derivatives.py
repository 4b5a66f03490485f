"""Item 17 element by element: third and fourth derivatives by full finite differences, not their fast projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse

pytestmark = pytest.mark.exhaustive

X = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
V = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("product", [hesse.vhp, hesse.hvp])
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize(
    "func",
    [lambda x: 3 * x.narrow(0, 0, 3).exp().sum(), lambda x: x.prod().exp(), lambda x: (x @ x.mT).sin().sum()],
    ids=["narrow", "product", "matrix"],
)
def test_products_are_differentiable_element_by_element(
    product: Callable[..., Any], check: Callable[..., bool], func: Callable[[Tensor], Tensor]
) -> None:
    assert check(lambda x, v: product(func, x.cos(), v, create_graph=True), (X, V), check_batched_grad=True)
