"""Section 3: what is observed of PyTorch's functions beside their tests, and kept; a test for each phrase."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hesse import functional

from .families import PRODUCTS, each_product
from .references import DOUBLE, assert_values, dense_hessian


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum()


@each_product
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_output_keeps_its_own_shape(name: str, shape: tuple[int, ...]) -> None:
    output, _ = PRODUCTS[name](lambda x: cubic(x).reshape(shape), torch.rand(3), torch.rand(3))
    assert output.shape == shape


@each_product
def test_one_element_tuple_and_tensor_are_interchangeable_for_v(name: str) -> None:
    x, v = torch.rand(3), torch.rand(3)
    for inputs in (x, (x,)):
        for vector in (v, (v,)):
            product = PRODUCTS[name](cubic, inputs, vector)[1]
            assert isinstance(product, tuple) == isinstance(inputs, tuple)
            assert_values(product[0] if isinstance(product, tuple) else product, 6 * x * v)


@each_product
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("create_graph", [False, True])
def test_v_of_another_real_dtype_is_accepted_and_the_result_is_in_the_dtype_of_the_input(
    name: str, dtype: torch.dtype, create_graph: bool
) -> None:
    x, v = torch.rand(3), torch.tensor([0, 1, 1]).to(dtype)
    assert_values(PRODUCTS[name](cubic, x, v, create_graph)[1], 6 * x * v.float())


@each_product
def test_gradients_flow_to_v_of_another_dtype_in_that_dtype(name: str) -> None:
    x, v = torch.rand(3), torch.rand(3, dtype=DOUBLE, requires_grad=True)
    PRODUCTS[name](cubic, x, v, create_graph=True)[1].sum().backward()
    assert_values(v.grad, (6 * x).double())


@each_product
def test_gradients_flow_to_v_with_create_graph(name: str) -> None:
    x, v = torch.rand(3), torch.rand(3, requires_grad=True)
    PRODUCTS[name](cubic, x, v, create_graph=True)[1].sum().backward()
    assert_values(v.grad, 6 * x)


@each_product
def test_gradients_flow_to_captured_parameters_with_create_graph(name: str) -> None:
    x, v, weight = torch.rand(3), torch.rand(3), torch.rand(3, requires_grad=True)
    PRODUCTS[name](lambda x: cubic(weight * x), x, v, create_graph=True)[1].sum().backward()
    assert_values(weight.grad, 18 * weight**2 * x * v)


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_grad_and_requires_grad_of_everything_given_are_untouched(
    name: str, create_graph: bool, requires_grad: bool
) -> None:
    x, v, captured = (torch.rand(3, requires_grad=requires_grad) for _ in range(3))
    PRODUCTS[name](lambda x: cubic(x * captured), x, v, create_graph)
    for tensor in (x, v, captured):
        assert tensor.grad is None
        assert tensor.requires_grad == requires_grad
        assert tensor.grad_fn is None


@each_product
def test_a_gradient_already_there_is_untouched(name: str) -> None:
    x = torch.rand(3, requires_grad=True)
    x.grad = torch.full((3,), 7.0)
    PRODUCTS[name](cubic, x, torch.rand(3), create_graph=True)
    assert_values(x.grad, torch.full((3,), 7.0))


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
def test_parameter_in_gives_plain_tensor_out(name: str, create_graph: bool) -> None:
    x, v = nn.Parameter(torch.rand(3)), torch.rand(3)
    seen: list[type] = []

    def func(x: Tensor) -> Tensor:
        seen.append(type(x))
        return cubic(x)

    product = PRODUCTS[name](func, x, v, create_graph)[1]
    assert type(product) is Tensor
    assert seen == [Tensor]
    assert_values(product, 6 * x * v)


@each_product
def test_the_same_tensor_twice_gives_separate_partials(name: str) -> None:
    x, v, w = torch.rand(3), torch.rand(3), torch.rand(3)
    product = PRODUCTS[name](lambda a, b: (a**2 * b).sum(), (x, x), (v, w))[1]
    assert_values(product, (2 * x * v + 2 * x * w, 2 * x * v))


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_captured_original_is_a_constant(name: str, create_graph: bool) -> None:
    x, v = torch.rand(3, requires_grad=True), torch.rand(3)
    product = PRODUCTS[name](lambda a: (a**2 * x).sum(), x, v, create_graph)[1]
    assert_values(product, 2 * x * v)


class HalfSquare(torch.autograd.Function):
    """x ↦ Σ x² / 2, with a gradient whose own backward hands the vector through as it is."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * x).sum() / 2

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0] + (grad - 1)


ALIASING = {
    "vhp": (functional.vhp, HalfSquare.apply),
    "hvp": (functional.hvp, HalfSquare.apply),
    "vjp": (functional.vjp, lambda x: x + 1),
    "jvp": (functional.jvp, lambda x: x + 1),
}


@pytest.mark.parametrize("name", ALIASING)
@pytest.mark.parametrize("create_graph", [False, True])
def test_the_result_never_aliases_v(name: str, create_graph: bool) -> None:
    """Where the matrix is the identity, the engine returns the very vector it was given."""
    product_of, func = ALIASING[name]
    v = torch.rand(3)
    kept = v.clone()
    product = product_of(func, torch.rand(3), v, create_graph)[1]
    assert_values(product, v)
    with torch.no_grad():
        product.zero_()
    assert_values(v, kept)


COMPLEX_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "real_part_of_square": lambda z: (z * z).real.sum(),
    "absolute_fourth": lambda z: (z.abs() ** 4).sum(),
    "coupled": lambda z: (z[0] * z[1].conj() * z.sum()).imag + z.exp().real.sum(),
}


@each_product
@pytest.mark.parametrize("function", COMPLEX_FUNCTIONS)
def test_complex_inputs_follow_the_gradient_convention_of_pytorch(name: str, function: str) -> None:
    """The gradient is ∂f/∂Re + i ∂f/∂Im, so the product is the Hessian over real and imaginary parts, times v."""
    func = COMPLEX_FUNCTIONS[function]
    z, v = torch.randn(3, dtype=torch.complex128), torch.randn(3, dtype=torch.complex128)
    dense = dense_hessian(lambda parts: func(torch.view_as_complex(parts)), (torch.view_as_real(z),))
    expected = torch.view_as_complex((dense @ torch.view_as_real(v).reshape(-1)).reshape(3, 2))
    output, product = PRODUCTS[name](func, z, v)
    assert output.dtype == DOUBLE
    assert_values(product, expected, rtol=1e-6, atol=1e-7)


@each_product
def test_a_complex_output_raises(name: str) -> None:
    z = torch.randn(3, dtype=torch.complex64)
    message = f"^The Tensor returned by the function given to {name} should be real but has dtype torch.complex64.$"
    with pytest.raises(RuntimeError, match=message):
        PRODUCTS[name](lambda z: (z**3).sum(), z, z)


@each_product
def test_exceptions_of_the_function_pass_through_unchanged(name: str) -> None:
    raised = LookupError("of the function")

    def func(x: Tensor) -> Tensor:
        raise raised

    with pytest.raises(LookupError) as caught:
        PRODUCTS[name](func, torch.rand(3), torch.rand(3))
    assert caught.value is raised
    assert caught.value.__cause__ is None


@each_product
@pytest.mark.parametrize("create_graph", [False, True])
def test_sparse_inputs_take_a_sparse_vector_and_give_a_sparse_product(name: str, create_graph: bool) -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    v = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    for requires_grad in (False, True):
        sparse = x.to_sparse().requires_grad_(requires_grad)
        output, product = PRODUCTS[name](lambda s: torch.sparse.sum(s * s * s), sparse, v.to_sparse(), create_graph)
        assert product.layout == torch.sparse_coo
        assert_values(output, cubic(x))
        assert_values(product.to_dense(), 6 * x * v)


@each_product
def test_a_view_given_as_input_is_neither_changed_nor_aliased(name: str) -> None:
    base = torch.rand(4, 4)
    kept = base.clone()
    product = PRODUCTS[name](cubic, base[::2, 1], torch.ones(2))[1]
    product.zero_()
    assert_values(base, kept)
