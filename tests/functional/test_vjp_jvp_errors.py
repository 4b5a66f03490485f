"""Section 2 for the neighbours vjp and jvp: the analogues of items 1 to 9, errors and strict mode."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse

from .references import assert_values

Wrap = Callable[..., Tensor]
PRODUCTS = {"vjp": hesse.functional.vjp, "jvp": hesse.functional.jvp}
each_product = pytest.mark.parametrize("name", PRODUCTS)
V_MAY_BE_NONE = {
    "vjp": "The vector v can only be None if the user-provided function returns a single Tensor with a single element.",
    "jvp": "The vector v can only be None if the input to the user-provided function is a single Tensor with a"
    " single element.",
}


def _three(a: Tensor) -> Tensor:
    return 3 * a.narrow(0, 0, 3)


def _disconnected(a: Tensor) -> Tensor:
    return a.long().float().requires_grad_().clone()


@each_product
def test_item_01_an_input_that_is_no_tensor_is_named(name: str, wrap: Wrap) -> None:
    message = f"The inputs given to {name} must be either a Tensor or a tuple of Tensors but the value at index 1 has"
    with pytest.raises(TypeError, match=message):
        PRODUCTS[name](_three, (wrap(torch.rand(4)), 2), wrap(torch.rand(4)))


@each_product
def test_item_02_an_output_that_is_no_tensor_is_named(name: str, wrap: Wrap) -> None:
    message = f"The outputs of the user-provided function given to {name} must be .* the value at index 1 has type"
    with pytest.raises(TypeError, match=message):
        PRODUCTS[name](lambda a: (_three(a), "bar"), wrap(torch.rand(4)), wrap(torch.rand(4)))


@each_product
def test_item_04_a_vector_of_the_wrong_size_is_refused(name: str, wrap: Wrap) -> None:
    wanted = 3 if name == "vjp" else 4
    message = f"v has invalid size: should be torch.Size([{wanted}]) but got torch.Size([2])."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](_three, wrap(torch.rand(4)), wrap(torch.rand(2)))


@each_product
def test_item_05_the_types_in_v_are_checked_before_its_length(name: str, wrap: Wrap) -> None:
    message = f"The v given to {name} must be either a Tensor or a tuple of Tensors but the value at index 1 has type"
    with pytest.raises(TypeError, match=message):
        PRODUCTS[name](_three, wrap(torch.rand(4)), (wrap(torch.rand(4)), 2))


@each_product
def test_item_06_one_tensor_wants_one_tensor_in_v(name: str, wrap: Wrap) -> None:
    v = wrap(torch.rand(4))
    with pytest.raises(RuntimeError, match=r"^The given v should contain a single Tensor\.$"):
        PRODUCTS[name](_three, wrap(torch.rand(4)), (v, v))


@each_product
def test_item_06_a_vector_of_the_wrong_length_is_refused(name: str, wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(4)), wrap(torch.rand(4)))
    with pytest.raises(RuntimeError, match=r"^v is a tuple of invalid length: should be 2 but got 3\.$"):
        PRODUCTS[name](lambda a, b: (a, b), inputs, (inputs[0],) * 3)


@each_product
def test_item_06_v_may_not_be_left_out_for_several_elements(name: str, wrap: Wrap) -> None:
    with pytest.raises(RuntimeError, match=f"^{re.escape(V_MAY_BE_NONE[name])}$"):
        PRODUCTS[name](_three, wrap(torch.rand(4)))


@each_product
def test_item_06_vjp_runs_the_function_before_it_checks_v_and_jvp_after(name: str) -> None:
    calls: list[Tensor] = []

    def func(a: Tensor) -> Tensor:
        calls.append(a)
        return a

    with pytest.raises(RuntimeError, match="v has invalid size"):
        PRODUCTS[name](func, torch.rand(4), torch.rand(5))
    assert len(calls) == (1 if name == "vjp" else 0)


@each_product
def test_item_07_strict_refuses_an_output_that_requires_no_gradients(name: str, wrap: Wrap) -> None:
    x = wrap(torch.rand(4))
    with pytest.raises(RuntimeError, match=r"^Output 0 of the user-provided function does not require gradients\."):
        PRODUCTS[name](lambda a: a.detach(), x, x, strict=True)
    assert_values(PRODUCTS[name](lambda a: a.detach(), x, x)[1], torch.zeros(4))


@each_product
def test_item_07_strict_gives_the_index_of_the_output(name: str, wrap: Wrap) -> None:
    x = wrap(torch.rand(4))
    v = (x, x) if name == "vjp" else x
    with pytest.raises(RuntimeError, match=r"^Output 1 of the user-provided function does not require gradients\."):
        PRODUCTS[name](lambda a: (2 * a, a.detach()), x, v, strict=True)


@each_product
def test_item_08_strict_refuses_an_input_the_output_is_not_connected_to(name: str, wrap: Wrap) -> None:
    x = wrap(torch.rand(4))
    with pytest.raises(RuntimeError, match=r"^The output of the user-provided function is independent of input 0\."):
        PRODUCTS[name](_disconnected, x, x, strict=True)
    assert_values(PRODUCTS[name](_disconnected, x, x)[1], torch.zeros(4))


@each_product
def test_item_09_strict_with_create_graph_refuses_a_jacobian_that_is_constant(name: str, wrap: Wrap) -> None:
    v = torch.rand(4)
    x = wrap(torch.rand(4), requires_grad=True)
    message = (
        "The jacobian of the user-provided function is independent of input 0. This is not allowed in strict mode"
        " when create_graph=True."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](lambda a: a.clone(), x, wrap(v), create_graph=True, strict=True)
    assert_values(PRODUCTS[name](lambda a: a.clone(), x, wrap(v), create_graph=True)[1], v)


@each_product
def test_item_09_strict_passes_a_linear_function(name: str, wrap: Wrap) -> None:
    v = torch.rand(4)
    assert_values(PRODUCTS[name](lambda a: 3 * a, wrap(torch.rand(4)), wrap(v), strict=True)[1], 3 * v)
