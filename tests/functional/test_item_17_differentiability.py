"""Section 2, item 17: output and product of vhp and hvp with create_graph are differentiable twice more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from .families import PRODUCTS, each_product, first_three, pair_sum
from .references import DOUBLE

Wrap = Callable[..., Tensor]


def _check(func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    assert gradcheck(func, inputs, fast_mode=True, check_batched_grad=True)
    assert gradgradcheck(func, inputs, fast_mode=True, check_batched_grad=True)


def _variables(wrap: Wrap, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(wrap(torch.rand(shape, dtype=DOUBLE), requires_grad=True) for shape in shapes)


@each_product
def test_item_17_of_a_single_input_by_input_and_vector(name: str, wrap: Wrap) -> None:
    x, v = _variables(wrap, (4, 2), (4, 2))
    _check(lambda x, v: PRODUCTS[name](first_three, x, v, create_graph=True), (x, v))


@each_product
@pytest.mark.one_in(5)
def test_item_17_of_a_tuple_by_inputs_and_vectors(name: str, wrap: Wrap) -> None:
    variables = _variables(wrap, (3,), (4,), (3,), (4,))

    def flat(*args: Tensor) -> tuple[Tensor, ...]:
        output, product = PRODUCTS[name](pair_sum, args[:2], args[2:], create_graph=True)
        return output, *product

    _check(flat, variables)


@each_product
@pytest.mark.one_in(5)
def test_item_17_composed_with_cosines_before_and_after(name: str, wrap: Wrap) -> None:
    variables = _variables(wrap, (3,), (4,), (3,), (4,))

    def composed(*args: Tensor) -> Tensor:
        x, y, *v = args
        x = x.cos()
        output, (first, second) = PRODUCTS[name](pair_sum, (x, y), tuple(v), create_graph=True)
        return output.cos() + first.cos().sum() + second.cos() + x.cos().sum() + y.cos()

    _check(composed, variables)


@each_product
@pytest.mark.one_in(5)
def test_item_17_by_a_captured_parameter(name: str, wrap: Wrap) -> None:
    """Also section 3: gradients flow to closed-over parameters."""
    x, v, captured = _variables(wrap, (3,), (3,), (3,))
    _check(lambda x, v, c: PRODUCTS[name](lambda a: (c * a).sin().sum(), x, v, create_graph=True), (x, v, captured))


@each_product
@pytest.mark.parametrize("grad_of", ["inputs", "v"])
def test_item_17_when_only_one_side_requires_gradients(name: str, grad_of: str) -> None:
    x = torch.rand(3, dtype=DOUBLE, requires_grad=grad_of == "inputs")
    v = torch.rand(3, dtype=DOUBLE, requires_grad=grad_of == "v")
    _, product = PRODUCTS[name](lambda a: (a**3).sum(), x, v, create_graph=True)
    (gradient,) = torch.autograd.grad(product.sum(), x if grad_of == "inputs" else v)
    torch.testing.assert_close(gradient, (6 * v if grad_of == "inputs" else 6 * x).detach())
