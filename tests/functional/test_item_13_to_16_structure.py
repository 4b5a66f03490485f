"""Section 2, items 13 to 16: what vhp and hvp return has the structure of the inputs and the values of vᵀH and Hv."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse

from .families import PRODUCTS, each_product, first_three, pair_sum
from .logging_tensor import LoggedTensor
from .references import DOUBLE, assert_values, dense_hessian

Wrap = Callable[..., Tensor]


@each_product
def test_item_13_an_input_used_in_part_has_zeros_for_the_rest(name: str, wrap: Wrap) -> None:
    x, v = torch.rand(4, 4), torch.rand(4, 4)
    expected = 2 * x.exp() * v
    expected[3] = 0
    assert_values(PRODUCTS[name](first_three, wrap(x), wrap(v))[1], expected)


@each_product
def test_item_13_a_tuple_gives_a_tuple(name: str, wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(3)), wrap(torch.rand(4)))
    output, product = PRODUCTS[name](pair_sum, inputs, inputs)
    assert output.shape == ()
    assert isinstance(product, tuple)
    assert [entry.shape for entry in product] == [(3,), (4,)]


@each_product
def test_item_13_a_tuple_of_one_gives_a_tuple_of_one(name: str, wrap: Wrap) -> None:
    product = PRODUCTS[name](first_three, (wrap(torch.rand(4)),), wrap(torch.rand(4)))[1]
    assert isinstance(product, tuple)
    assert len(product) == 1


@each_product
def test_item_13_a_zero_dim_input_gives_a_zero_dim_product(name: str, wrap: Wrap) -> None:
    x, v = torch.rand(()), torch.rand(())
    assert_values(PRODUCTS[name](lambda a: a.exp(), wrap(x), wrap(v))[1], x.exp() * v)


@each_product
def test_item_13_an_output_keeps_its_own_shape(name: str, wrap: Wrap) -> None:
    """Also section 3, "output keeps its own shape"."""
    x, v = torch.rand(4, 4), torch.rand(4, 4)
    output, product = PRODUCTS[name](lambda a: a.exp().sum().view(1, 1, 1), wrap(x), wrap(v))
    assert_values(output, x.exp().sum().view(1, 1, 1))
    assert_values(product, x.exp() * v)


@each_product
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_item_14_v_left_out_is_a_one(name: str, shape: tuple[int, ...], wrap: Wrap) -> None:
    x = torch.rand(shape)
    assert_values(PRODUCTS[name](lambda a: a.exp().sum(), wrap(x))[1], x.exp())
    assert_values(PRODUCTS[name](lambda a: a.exp().sum(), (wrap(x),))[1], (x.exp(),))


@each_product
def test_item_15_a_linear_function_gives_zeros_of_the_shape_of_the_input(name: str, wrap: Wrap) -> None:
    x = torch.rand(4, 4)
    output, product = PRODUCTS[name](lambda a: a.sum(), wrap(x), wrap(torch.ones(4, 4)))
    assert_values(output, x.sum())
    assert_values(product, torch.zeros(4, 4))


@each_product
def test_item_16_the_product_is_that_of_the_dense_hessian(name: str, wrap: Wrap) -> None:
    def func(a: Tensor) -> Tensor:
        return 2 * a.narrow(0, 0, 3).exp().sum() * a.cos().sum()

    x, v = torch.rand(4, dtype=DOUBLE), torch.rand(4, dtype=DOUBLE)
    product = PRODUCTS[name](func, wrap(x), wrap(v))[1]
    assert_values(product, dense_hessian(func, (x,)) @ v, rtol=1e-6, atol=1e-8)


class Skewed(torch.autograd.Function):
    """x ↦ Σ x² / 2 with a backward that gives A x for x, so its "Hessian" A need not be symmetric."""

    matrix = torch.tensor([[1.0, 2.0], [5.0, 3.0]], dtype=DOUBLE)

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * x).sum() / 2

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return Skewed.matrix @ ctx.saved_tensors[0] * grad


def test_item_16_vhp_multiplies_from_the_left_and_hvp_from_the_right() -> None:
    x, v = torch.rand(2, dtype=DOUBLE), torch.rand(2, dtype=DOUBLE)
    torch.testing.assert_close(hesse.vhp(Skewed.apply, x, v)[1], v @ Skewed.matrix)
    torch.testing.assert_close(hesse.hvp(Skewed.apply, x, v)[1], Skewed.matrix @ v)
    torch.testing.assert_close(hesse.functional.hessian(Skewed.apply, x), Skewed.matrix)


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
def test_subclasses_pass_through(name: str, create_graph: bool) -> None:
    """Section 2, last sentence: results are of the subclass, and the work was dispatched to it."""
    x, v = LoggedTensor(torch.rand(3)), LoggedTensor(torch.rand(3))
    LoggedTensor.log.clear()
    output, product = PRODUCTS[name](lambda a: a.sin().sum(), x, v, create_graph)
    assert type(output) is type(product) is LoggedTensor
    for operator in ("aten.sin.default", "aten.cos.default", "aten.neg.default"):
        assert operator in LoggedTensor.log


@each_product
def test_subclasses_pass_through_where_the_product_is_zero(name: str) -> None:
    x = LoggedTensor(torch.rand(3))
    assert type(PRODUCTS[name](lambda a: a.sum(), x, x)[1]) is LoggedTensor
