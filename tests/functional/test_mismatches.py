"""Section 4: what PyTorch refuses deep in the engine, or with an obscure error, is refused in one sentence."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

import hesse
from hesse import functional

from .families import PRODUCTS, each_product
from .references import assert_values

WITH_VECTOR = {**PRODUCTS, "vjp": functional.vjp, "jvp": functional.jvp}
FAMILY = {**WITH_VECTOR, "jacobian": functional.jacobian, "hessian": functional.hessian}


def _cubes(*entries: Tensor) -> Tensor:
    return sum((entry**3).sum() for entry in entries)


@pytest.mark.parametrize("name", ["vhp", "hvp", "jvp"])
def test_a_vector_on_another_device_is_refused_by_device(name: str) -> None:
    message = "v is on the wrong device: should be cpu but got meta."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        WITH_VECTOR[name](_cubes, torch.rand(3), torch.rand(3, device="meta"))


@pytest.mark.parametrize("name", ["vhp", "hvp", "jvp"])
def test_a_nested_vector_for_a_lone_tensor_is_refused(name: str) -> None:
    message = "v has an invalid structure: it should be a Tensor, as the input is."
    for v in ([torch.rand(3)], ((torch.rand(3),),)):
        with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
            WITH_VECTOR[name](_cubes, torch.rand(3), v)


@pytest.mark.parametrize("name", ["vhp", "hvp", "jvp"])
def test_an_entry_on_another_device_is_named(name: str) -> None:
    inputs = (torch.rand(3), torch.rand(3))
    message = "Entry 1 in v is on the wrong device: should be cpu but got meta."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        WITH_VECTOR[name](_cubes, inputs, (torch.rand(3), torch.rand(3, device="meta")))


def test_a_vector_for_vjp_on_another_device_than_the_outputs_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"^v is on the wrong device: should be cpu but got meta"):
        functional.vjp(lambda x: x**2, torch.rand(3), torch.rand(3, device="meta"))


@each_product
def test_a_product_on_the_meta_device_stays_there(name: str) -> None:
    x = torch.rand(3, device="meta")
    output, product = PRODUCTS[name](_cubes, x, x)
    assert output.device.type == product.device.type == "meta"
    assert product.shape == (3,)


@pytest.mark.parametrize("name", ["vhp", "hvp", "jvp"])
@pytest.mark.parametrize(
    ("of_input", "of_v", "wanted"),
    [(torch.float32, torch.complex64, "real"), (torch.complex64, torch.float32, "complex")],
)
def test_a_vector_complex_where_the_input_is_real_or_the_reverse_is_refused(
    name: str, of_input: torch.dtype, of_v: torch.dtype, wanted: str
) -> None:
    message = f"v has an invalid dtype: should be {wanted} like {of_input} but got {of_v}."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        WITH_VECTOR[name](lambda x: x.abs().sum(), torch.ones(3, dtype=of_input), torch.ones(3, dtype=of_v))


@each_product
def test_an_entry_of_a_complex_mismatch_is_named(name: str) -> None:
    inputs = (torch.rand(3), torch.rand(3))
    with pytest.raises(RuntimeError, match=r"^Entry 1 in v has an invalid dtype: should be real like torch.float32"):
        PRODUCTS[name](_cubes, inputs, (torch.rand(3), torch.rand(3, dtype=torch.complex64)))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("empty", [(), [], {}], ids=["tuple", "list", "dict"])
def test_inputs_without_a_tensor_are_refused_in_one_sentence(name: str, empty: object) -> None:
    message = f"The inputs given to {name} must hold at least one Tensor but hold none."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FAMILY[name](lambda *nothing: torch.zeros(()), empty)


@each_product
def test_an_empty_vector_is_refused(name: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match="v"):
        PRODUCTS[name](_cubes, torch.rand(3), ())


@pytest.mark.parametrize("name", ["vjp", "jvp", "jacobian"])
def test_outputs_without_a_tensor_are_refused_in_one_sentence(name: str) -> None:
    message = f"The outputs of the user-provided function given to {name} must hold at least one Tensor but hold none."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FAMILY[name](lambda x: (), torch.rand(1))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integer_inputs_are_refused_in_one_sentence_and_a_remedy(name: str, dtype: torch.dtype) -> None:
    message = (
        f"The inputs given to {name} must be floating-point or complex but the value at [1] has dtype {dtype}."
        " Convert it, capture it in the function, or leave it out with argnums."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        FAMILY[name](lambda a, b: (a * b).sum(), (torch.rand(1), torch.ones(1, dtype=dtype)))


@each_product
def test_integer_inputs_left_out_with_argnums_are_fine(name: str) -> None:
    x, v, index = torch.rand(3), torch.rand(2), torch.tensor([0, 2, 2])
    x = x[:2]
    index = torch.tensor([0, 1, 1])
    product = PRODUCTS[name](lambda a, i: _cubes(a[i]), (x, index), v, argnums=0)[1]
    assert_values(product, 6 * x * v * torch.tensor([1.0, 2.0]))


@each_product
def test_no_grad_inside_the_function_keeps_the_value_of_the_contract(name: str) -> None:
    """What is computed under no_grad is a constant; PyTorch's value is kept, though it may surprise."""

    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            square = x**2
        return (square * x).sum() + (x**3).sum()

    x, v = torch.rand(3), torch.rand(3)
    theirs = getattr(torch.autograd.functional, name)(func, x, v)
    assert_values(PRODUCTS[name](func, x, v), theirs)
    assert_values(theirs[1], 6 * x * v)


def test_no_grad_around_all_of_the_function_gives_zeros() -> None:
    output, product = hesse.vhp(torch.no_grad()(_cubes), torch.ones(3), torch.ones(3))
    assert_values(output, torch.tensor(3.0))
    assert_values(product, torch.zeros(3))
