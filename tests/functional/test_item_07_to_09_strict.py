"""Section 2, items 7 to 9: what strict mode of vhp and hvp refuses, and the zeros that stand there without it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse

from .families import PRODUCTS, detached, disconnected, each_product, linear
from .references import assert_values

Wrap = Callable[..., Tensor]
UNSTRICT = pytest.mark.parametrize("func", [detached, disconnected, linear], ids=["item_07", "item_08", "item_09"])
CONSTANT_HESSIAN = (
    "The hessian of the user-provided function is independent of input 0. This is not allowed in strict mode"
    " when create_graph=True."
)


def _twice_linear(i: int) -> str:
    return (
        "While computing the hessian, found that the jacobian of the user-provided function with respect to input"
        f" {i} is independent of the input. This is not allowed in strict mode. You should ensure that your"
        " function is twice differentiable and that the jacobian depends on the inputs (this would be violated by"
        " a linear function for example)."
    )


def _independent(i: int) -> str:
    return f"The output of the user-provided function is independent of input {i}. This is not allowed in strict mode."


@each_product
@UNSTRICT
@pytest.mark.parametrize("create_graph", [False, True])
def test_items_07_to_09_without_strict_the_product_is_zeros(
    name: str, func: Callable[[Tensor], Tensor], create_graph: bool, wrap: Wrap
) -> None:
    x = torch.rand(4)
    output, product = PRODUCTS[name](func, wrap(x), wrap(torch.rand(4)), create_graph)
    assert_values(output, func(x))
    assert_values(product, torch.zeros(4))


@each_product
def test_item_07_strict_names_an_output_that_requires_no_gradients(name: str, wrap: Wrap) -> None:
    message = (
        "Output 0 of the user-provided function does not require gradients. The outputs must be computed in a"
        " differentiable manner from the input when running in strict mode."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS[name](detached, wrap(torch.rand(4)), wrap(torch.rand(4)), strict=True)


@each_product
def test_item_08_strict_names_an_input_the_output_is_not_connected_to(name: str, wrap: Wrap) -> None:
    with pytest.raises(RuntimeError, match=f"^{re.escape(_independent(0))}$"):
        PRODUCTS[name](disconnected, wrap(torch.rand(4)), wrap(torch.rand(4)), strict=True)


@each_product
def test_item_08_strict_gives_the_index_of_the_input(name: str, wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(2)), wrap(torch.rand(3)))
    with pytest.raises(RuntimeError, match=f"^{re.escape(_independent(1))}$"):
        PRODUCTS[name](lambda a, b: (a**2).sum(), inputs, inputs, strict=True)


@each_product
def test_item_09_strict_names_an_input_the_gradient_does_not_depend_on(name: str, wrap: Wrap) -> None:
    with pytest.raises(RuntimeError, match=f"^{re.escape(_twice_linear(0))}$"):
        PRODUCTS[name](linear, wrap(torch.rand(4)), wrap(torch.rand(4)), strict=True)


@each_product
def test_item_09_strict_gives_the_index_of_the_linear_input(name: str, wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(2)), wrap(torch.rand(3)))
    with pytest.raises(RuntimeError, match=f"^{re.escape(_twice_linear(1))}$"):
        PRODUCTS[name](lambda a, b: (a**2).sum() + b.sum(), inputs, inputs, strict=True)


@each_product
def test_item_09_strict_passes_a_function_whose_second_derivatives_happen_to_be_zero(name: str, wrap: Wrap) -> None:
    """Strict tests connection in the graph, not mathematics."""
    x = torch.rand(4)
    output, product = PRODUCTS[name](lambda a: (0 * a**3).sum(), wrap(x), wrap(torch.ones(4)), strict=True)
    assert_values(output, torch.tensor(0.0))
    assert_values(product, torch.zeros(4))


def test_item_09_strict_passes_a_quadratic(wrap: Wrap) -> None:
    matrix, x, v = torch.rand(4, 4), torch.rand(4), torch.rand(4)
    product = hesse.vhp(lambda a: a.dot(wrap(matrix).mv(a)), wrap(x), wrap(v), strict=True)[1]
    assert_values(product, v @ (matrix + matrix.T))
    product = hesse.vhp(lambda a: a @ matrix @ a, x, v, strict=True)[1]
    assert_values(product, v @ (matrix + matrix.T))


def test_item_09_strict_with_create_graph_refuses_a_quadratic(wrap: Wrap) -> None:
    matrix = wrap(torch.rand(4, 4))
    x, v = wrap(torch.rand(4), requires_grad=True), wrap(torch.rand(4))
    with pytest.raises(RuntimeError, match=f"^{re.escape(CONSTANT_HESSIAN)}$"):
        hesse.vhp(lambda a: a.dot(matrix.mv(a)), x, v, create_graph=True, strict=True)


def test_item_09_strict_with_create_graph_refuses_a_quadratic_written_with_matmul() -> None:
    """Plain tensors only: matmul of vectors squeezes in place, which a wrapper subclass cannot follow."""
    matrix, x = torch.rand(4, 4), torch.rand(4, requires_grad=True)
    with pytest.raises(RuntimeError, match=f"^{re.escape(CONSTANT_HESSIAN)}$"):
        hesse.vhp(lambda a: a @ matrix @ a, x, torch.rand(4), create_graph=True, strict=True)


@each_product
def test_item_09_strict_with_create_graph_passes_a_cubic(name: str, wrap: Wrap) -> None:
    x, v = torch.rand(4), torch.rand(4)
    product = PRODUCTS[name](
        lambda a: (a**3).sum(), wrap(x, requires_grad=True), wrap(v), create_graph=True, strict=True
    )[1]
    assert_values(product, 6 * x * v)


def test_item_09_strict_passes_an_input_whose_own_block_is_zero(wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(3)), wrap(torch.rand(3)))
    v = (wrap(torch.ones(3)), wrap(torch.zeros(3)))
    product = hesse.vhp(lambda a, b: (a**3).sum() + (a * b).sum(), inputs, v, strict=True)[1]
    assert_values(product[1], torch.ones(3))


def test_item_09_strict_names_an_input_that_only_the_gradient_of_another_tensor_reaches(wrap: Wrap) -> None:
    """The gradient by b requires gradients, but for a captured tensor's sake, not for that of the inputs."""
    captured = wrap(torch.rand(3), requires_grad=True)
    inputs = (wrap(torch.rand(3)), wrap(torch.rand(3)))
    message = (
        "The jacobian of the user-provided function is independent of input 1. This is not allowed in strict mode."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        hesse.vhp(lambda a, b: (a**3).sum() + (b * captured).sum(), inputs, inputs, strict=True)


def test_hvp_strict_says_when_the_hessian_is_independent_of_the_inputs(wrap: Wrap) -> None:
    """Section 4, last row: PyTorch checks the gradient a second time there, and never says this."""
    message = (
        "The hessian of the user-provided function with respect to input 0 is independent of the input. This is"
        " not allowed in strict mode. You should ensure that your function is thrice differentiable and that the"
        " hessian depends on the inputs."
    )

    class Cut(torch.autograd.Function):
        """x³ whose gradient's own backward is no function of the cotangent, so there is nothing to transpose."""

        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
            return Slope.apply(ctx.saved_tensors[0])

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            ctx.shape = x.shape
            return 2 * x

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
            return grad.new_full(ctx.shape, 2.0)

    def func(a: Tensor) -> Tensor:
        return Cut.apply(a).sum()

    x, v = wrap(torch.rand(3)), wrap(torch.rand(3))
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        PRODUCTS["hvp"](func, x, v, strict=True)
