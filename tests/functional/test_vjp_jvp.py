"""Section 2 for the neighbours vjp and jvp: the items' analogues that are about values, modes and structure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import hesse

from .references import DOUBLE, assert_values, has_history, has_no_history

Wrap = Callable[..., Tensor]
PRODUCTS = {"vjp": hesse.functional.vjp, "jvp": hesse.functional.jvp}
each_product = pytest.mark.parametrize("name", PRODUCTS)


def _row_sums(x: Tensor) -> Tensor:
    return x.exp().sum(dim=1)


def _vector_for(name: str, of_outputs: Tensor, of_inputs: Tensor) -> Tensor:
    return of_outputs if name == "vjp" else of_inputs


def _expected(name: str, x: Tensor, v: Tensor) -> Tensor:
    return x.exp() * v[:, None] if name == "vjp" else (x.exp() * v).sum(dim=1)


@each_product
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_item_10_whatever_the_grad_mode_values_are_right_and_without_history(
    name: str, mode: Callable[[], torch.no_grad], wrap: Wrap
) -> None:
    x = torch.rand(4, 3)
    v = _vector_for(name, torch.rand(4), torch.rand(4, 3))
    with mode():
        results = PRODUCTS[name](_row_sums, wrap(x), wrap(v))
    assert has_no_history(results)
    assert_values(results, (_row_sums(x), _expected(name, x, v)))


@each_product
@pytest.mark.parametrize("requires_grad", [False, True])
def test_item_11_no_grad_around_create_graph_gives_both_results_a_grad_fn(
    name: str, requires_grad: bool, wrap: Wrap
) -> None:
    x = torch.rand(4, 3)
    v = _vector_for(name, torch.rand(4), torch.rand(4, 3))
    with torch.no_grad():
        results = PRODUCTS[name](
            _row_sums, wrap(x, requires_grad=requires_grad), wrap(v, requires_grad=requires_grad), True
        )
    assert has_history(results)
    assert_values(results, (_row_sums(x), _expected(name, x, v)))


@each_product
def test_item_12_without_create_graph_nothing_that_requires_gradients_gives_history(name: str, wrap: Wrap) -> None:
    captured = wrap(torch.rand(()), requires_grad=True)
    v = wrap(_vector_for(name, torch.rand(4), torch.rand(4, 3)), requires_grad=True)
    x = wrap(torch.rand(4, 3), requires_grad=True)
    assert has_no_history(PRODUCTS[name](lambda x: _row_sums(x * captured), x, v))


def test_item_13_vjp_is_structured_like_the_inputs_and_its_v_like_the_outputs(wrap: Wrap) -> None:
    def two(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x + 3 * y, x + y

    x, y = torch.rand(2), torch.rand(2)
    v = (wrap(torch.tensor([1.0, 0.0])), wrap(torch.tensor([1.0, 2.0])))
    outputs, product = hesse.functional.vjp(two, (wrap(x), wrap(y)), v)
    assert_values(outputs, two(x, y))
    assert_values(product, (torch.tensor([3.0, 2.0]), torch.tensor([4.0, 2.0])))


def test_item_13_jvp_is_structured_like_the_outputs_and_its_v_like_the_inputs(wrap: Wrap) -> None:
    def two(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x + 3 * y, x * y

    x, y = torch.rand(2), torch.rand(2)
    v = (wrap(torch.tensor([1.0, 0.0])), wrap(torch.tensor([1.0, 2.0])))
    outputs, product = hesse.functional.jvp(two, (wrap(x), wrap(y)), v)
    assert_values(outputs, two(x, y))
    assert_values(product, (torch.tensor([5.0, 6.0]), torch.stack((x[0] + y[0], 2 * x[1]))))


def test_item_13_jvp_has_zeros_for_outputs_that_require_no_gradients(wrap: Wrap) -> None:
    x, v = torch.rand(3), torch.rand(3)
    product = hesse.functional.jvp(lambda x: (x.detach(), x.exp(), x.argsort(), x.sin()), wrap(x), wrap(v))[1]
    assert_values(product, (torch.zeros(3), x.exp() * v, torch.zeros(3, dtype=torch.int64), x.cos() * v))


@each_product
def test_item_13_a_zero_dim_input_may_be_expanded(name: str, wrap: Wrap) -> None:
    x = torch.rand(())
    v = _vector_for(name, torch.ones(4), torch.ones(()))
    output, product = PRODUCTS[name](lambda x: x.sin().repeat(4), wrap(x), wrap(v))
    assert_values(output, x.sin().repeat(4))
    assert_values(product, 4 * x.cos() if name == "vjp" else x.cos().repeat(4))


def test_item_14_v_of_vjp_left_out_is_a_one_where_the_output_is_a_single_element(wrap: Wrap) -> None:
    x = torch.rand(4, 4)
    output, product = hesse.functional.vjp(lambda x: x.sin().sum(), wrap(x))
    assert output.shape == ()
    assert_values(product, x.cos())


def test_item_14_v_of_jvp_left_out_is_a_one_where_the_input_is_a_single_element(wrap: Wrap) -> None:
    x = torch.rand(())
    assert_values(hesse.functional.jvp(lambda x: x.sin().repeat(4), wrap(x))[1], x.cos().repeat(4))


def test_item_16_vjp_and_jvp_are_the_products_with_the_dense_jacobian(wrap: Wrap) -> None:
    def func(x: Tensor) -> Tensor:
        return x**3 + x.sum()

    x, v = torch.rand(4, dtype=DOUBLE), torch.rand(4, dtype=DOUBLE)
    jacobian = torch.diag(3 * x**2) + 1
    assert_values(hesse.functional.vjp(func, wrap(x), wrap(v))[1], v @ jacobian)
    assert_values(hesse.functional.jvp(func, wrap(x), wrap(v))[1], jacobian @ v)


@each_product
@pytest.mark.one_in(5)
def test_item_17_results_are_differentiable_twice_by_inputs_and_vectors(name: str, wrap: Wrap) -> None:
    def pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x + 3 * y.exp(), x * y

    variables = tuple(wrap(torch.rand(2, dtype=DOUBLE), requires_grad=True) for _ in range(4))

    def flat(*args: Tensor) -> tuple[Tensor, ...]:
        outputs, product = PRODUCTS[name](pair, args[:2], args[2:], create_graph=True)
        return *outputs, *product

    def composed(x: Tensor, y: Tensor, *v: Tensor) -> Tensor:
        outputs, product = PRODUCTS[name](pair, (x.cos(), y), v, create_graph=True)
        return sum((entry.cos().sum() for entry in (*outputs, *product)), x.exp().sum())

    for func in (flat, composed):
        assert gradcheck(func, variables, fast_mode=True, check_batched_grad=True)
        assert gradgradcheck(func, variables, fast_mode=True, check_batched_grad=True)
