"""Section 4, row 1: under inference mode, where PyTorch gives zeros without a word, the product is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse import functional

from .families import PRODUCTS, each_product, pair_sum
from .references import DOUBLE, assert_values, dense_hessian, dense_product


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
def test_product_under_inference_mode_is_right(name: str, create_graph: bool) -> None:
    x, y, v, w = (torch.rand(n, dtype=DOUBLE) for n in (3, 4, 3, 4))
    expected = dense_product(pair_sum, (x, y), (v, w))
    with torch.inference_mode():
        output, product = PRODUCTS[name](pair_sum, (x, y), (v, w), create_graph)
    assert_values(output, pair_sum(x, y))
    assert_values(product, expected, rtol=1e-6, atol=1e-8)


@each_product
def test_inputs_vectors_and_captured_tensors_made_in_inference_mode_are_fine_inside_it(name: str) -> None:
    with torch.inference_mode():
        x, v, captured = (torch.rand(3, dtype=DOUBLE) for _ in range(3))
        assert captured.is_inference()
        output, product = PRODUCTS[name](lambda a: (captured * a).exp().sum(), x, v)
    assert_values(output, (captured * x).exp().sum())
    assert_values(product, captured**2 * (captured * x).exp() * v)


@each_product
def test_inputs_and_vectors_made_in_inference_mode_are_fine_outside_it(name: str) -> None:
    with torch.inference_mode():
        x, v = torch.rand(3), torch.rand(3)
    for create_graph in (False, True):
        assert_values(PRODUCTS[name](lambda a: (a**3).sum(), x, v, create_graph)[1], 6 * x * v)


@each_product
def test_a_model_made_in_inference_mode_has_the_product_of_one_made_outside(name: str) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    x, v = torch.rand(2, 3, dtype=DOUBLE), torch.rand(2, 3, dtype=DOUBLE)
    outside = model()
    expected = dense_product(lambda x: outside(x).pow(2).sum(), (x,), (v,))[0]
    with torch.inference_mode():
        inside = model()
        product = PRODUCTS[name](lambda x: inside(x).pow(2).sum(), x, v)[1]
    assert_values(product, expected, rtol=1e-6, atol=1e-8)


def test_buffers_that_the_function_updates_are_updated_once_under_inference_mode() -> None:
    x, v = torch.randn(5, 3), torch.randn(5, 3)
    reference = nn.BatchNorm1d(3)
    reference(x)
    with torch.inference_mode():
        norm = nn.BatchNorm1d(3)
        hesse.vhp(lambda x: norm(x).pow(3).sum(), x, v)
    assert_values(norm.running_mean, reference.running_mean)
    assert_values(norm.running_var, reference.running_var)
    assert norm.num_batches_tracked == 1


def test_a_captured_tensor_that_takes_a_derivative_in_place_is_refused() -> None:
    with torch.inference_mode():
        captured = torch.zeros(3)
        with pytest.raises(RuntimeError, match="changes a captured inference tensor"):
            hesse.vhp(lambda x: captured.add_(x).pow(3).sum(), torch.rand(3), torch.rand(3))


NEIGHBORS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]] = {
    "vjp": lambda f, x, v: functional.vjp(f, x, v)[1],
    "jvp": lambda f, x, v: functional.jvp(f, x, v)[1],
    "jacobian": lambda f, x, v: functional.jacobian(f, x) @ v,
    "jacobian-batch": lambda f, x, v: functional.jacobian(f, x, vectorize=True) @ v,
    "jacobian-columns": lambda f, x, v: functional.jacobian(f, x, vectorize=True, strategy="forward-mode") @ v,
}


@pytest.mark.parametrize("name", NEIGHBORS)
def test_neighbors_under_inference_mode_are_right(name: str) -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    with torch.inference_mode():
        actual = NEIGHBORS[name](lambda x: x.exp(), x, v)
    assert_values(actual, x.exp() * v)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_hessian_under_inference_mode_is_right(vectorize: bool, strategy: str) -> None:
    x = torch.rand(3, dtype=DOUBLE)
    with torch.inference_mode():
        actual = functional.hessian(
            lambda x: x.prod() ** 2,
            x,
            vectorize=vectorize or strategy == "forward-mode",
            outer_jacobian_strategy=strategy,
        )
    assert_values(actual, dense_hessian(lambda x: x.prod() ** 2, (x,)), rtol=1e-6, atol=1e-8)


def test_inference_mode_is_on_again_afterwards() -> None:
    with torch.inference_mode():
        hesse.vhp(lambda x: (x**3).sum(), torch.rand(2), torch.rand(2))
        assert torch.is_inference_mode_enabled()
        assert torch.rand(2).is_inference()
