"""Section 4, row 4: torch.compile around a call of the family is right, or refused in one clear sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse import functional

from .families import PRODUCTS, each_product, pair_sum
from .references import DOUBLE, assert_values, dense_hessian, dense_product


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _whole(func: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(func, backend="aot_eager", fullgraph=True)


@each_product
@pytest.mark.one_in(2)
def test_product_in_a_whole_compiled_graph_is_right(name: str) -> None:
    x, y, v, w = (torch.rand(n, dtype=DOUBLE) for n in (3, 4, 3, 4))
    compiled = _whole(lambda x, y, v, w: PRODUCTS[name](pair_sum, (x, y), (v, w)))
    output, product = compiled(x, y, v, w)
    assert_values(output, pair_sum(x, y))
    assert_values(product, dense_product(pair_sum, (x, y), (v, w)), rtol=1e-6, atol=1e-8)


@each_product
@pytest.mark.one_in(2)
def test_product_of_a_single_element_without_v_in_a_whole_compiled_graph(name: str) -> None:
    x = torch.rand(1, dtype=DOUBLE)
    assert_values(_whole(lambda x: PRODUCTS[name](lambda x: (x**3).sum(), x)[1])(x), 6 * x)


@each_product
@pytest.mark.one_in(2)
def test_zeros_of_a_linear_function_in_a_whole_compiled_graph(name: str) -> None:
    x = torch.rand(3, dtype=DOUBLE)
    assert_values(_whole(lambda x: PRODUCTS[name](lambda x: (3 * x).sum(), x, x)[1])(x), torch.zeros_like(x))


@each_product
@pytest.mark.one_in(2)
def test_aux_and_structures_in_a_whole_compiled_graph(name: str) -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)

    def call(x: Tensor, v: Tensor) -> Any:
        return PRODUCTS[name](
            lambda p: ((p["a"] ** 3).sum(), {"mean": p["a"].mean()}), {"a": x}, {"a": v}, has_aux=True
        )

    output, product, aux = _whole(call)(x, v)
    assert_values(output, (x**3).sum())
    assert_values(product["a"], 6 * x * v)
    assert_values(aux["mean"], x.mean())


def test_vjp_and_jvp_in_a_whole_compiled_graph_are_right() -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    for product in (functional.vjp, functional.jvp):
        outputs, result = _whole(lambda x, v, product=product: product(lambda x: (x.exp(), x.sin()), x, v=v))(
            x, (v, v) if product is functional.vjp else v
        )
        assert_values(outputs, (x.exp(), x.sin()))
        expected = x.exp() * v + x.cos() * v if product is functional.vjp else (x.exp() * v, x.cos() * v)
        assert_values(result, expected)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: functional.hessian(lambda x: (x**3).sum(), x), "hessian cannot be traced by torch.compile"),
        (lambda x: functional.jacobian(torch.exp, x), "jacobian cannot be traced by torch.compile"),
        (lambda x: hesse.vhp(torch.sum, x, x, strict=True), "vhp was given strict=True inside a region compiled"),
        (lambda x: hesse.hvp(torch.sum, x, x, strict=True), "hvp was given strict=True inside a region compiled"),
    ],
    ids=["hessian", "jacobian", "strict_vhp", "strict_hvp"],
)
def test_what_cannot_be_traced_is_one_clear_refusal(call: Callable[[Tensor], Any], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        _whole(call)(torch.rand(3))


def _breaks(x: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return (x**3).sum()


# After a break Dynamo looks at tensors of its own in a way that PyTorch warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@each_product
@pytest.mark.one_in(2)
def test_a_graph_break_inside_the_function_is_harmless(name: str) -> None:
    """PyTorch's own product raises, or returns zeros, from a graph that is broken inside its double backward."""
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    compiled = torch.compile(lambda x, v: PRODUCTS[name](_breaks, x, v), backend="aot_eager")
    output, product = compiled(x, v)
    assert_values(output, (x**3).sum())
    assert_values(product, 6 * x * v)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.exhaustive
def test_a_graph_break_is_harmless_in_first_derivatives_and_the_curried_product_too() -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)

    def calls(x: Tensor, v: Tensor) -> Any:
        pulled = functional.vjp(_breaks, x)[1]
        pushed = functional.jvp(_breaks, x, v)[1]
        return pulled, pushed, hesse.func.hvp(_breaks)(x, v)

    pulled, pushed, product = torch.compile(calls, backend="aot_eager")(x, v)
    assert_values(pulled, 3 * x**2)
    assert_values(pushed, (3 * x**2 * v).sum())
    assert_values(product, 6 * x * v)


@each_product
@pytest.mark.one_in(2)
def test_a_graph_break_around_the_call_is_harmless(name: str) -> None:
    x, v = torch.rand(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)

    def call(x: Tensor, v: Tensor) -> Tensor:
        doubled = 2 * x
        torch._dynamo.graph_break()
        product = PRODUCTS[name](lambda x: (x**3).sum(), doubled, v)[1]
        torch._dynamo.graph_break()
        return product + 1

    assert_values(torch.compile(call, backend="aot_eager")(x, v), 12 * x * v + 1)


def test_without_fullgraph_jacobian_and_hessian_are_right() -> None:
    """Refused by the tracer, they run outside of its graph."""
    x = torch.rand(3, dtype=DOUBLE)
    jacobian = torch.compile(lambda x: functional.jacobian(torch.exp, x), backend="aot_eager")(x)
    assert_values(jacobian, torch.diag(x.exp()))
    hessian = torch.compile(lambda x: functional.hessian(lambda x: x.prod() ** 2, x), backend="aot_eager")(x)
    assert_values(hessian, dense_hessian(lambda x: x.prod() ** 2, (x,)), rtol=1e-6, atol=1e-8)


@each_product
@pytest.mark.one_in(2)
def test_the_result_of_a_compiled_call_is_differentiable_with_create_graph(name: str) -> None:
    x, v = (torch.rand(3, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    compiled = _whole(lambda x, v: PRODUCTS[name](lambda x: (x**4).sum(), x, v, create_graph=True)[1])
    gradients = torch.autograd.grad(compiled(x, v).sum(), (x, v))
    assert_values(gradients, (24 * x * v, 12 * x**2))
    without = _whole(lambda x, v: PRODUCTS[name](lambda x: (x**4).sum(), x, v)[1])(x, v)
    assert not without.requires_grad


@each_product
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in_parts"])
@pytest.mark.one_in(4)
def test_product_of_attention_in_a_compiled_region_is_right(name: str, whole: bool) -> None:
    """Where PyTorch's fused kernel has no second derivative, and rules do not reach: plain operations serve."""
    x, v = (tuple([torch.rand(1, 2, 4, 3, dtype=DOUBLE) for _ in range(3)]) for _ in range(2))

    def attended(*x: Tensor) -> Tensor:
        return (torch.nn.functional.scaled_dot_product_attention(*x, is_causal=True) ** 3).sum()

    compiled = torch.compile(lambda x, v: PRODUCTS[name](attended, x, v), backend="aot_eager", fullgraph=whole)
    assert_values(compiled(x, v), PRODUCTS[name](attended, x, v), rtol=1e-10, atol=1e-12)


def test_attention_is_pushed_forward_in_a_whole_compiled_graph() -> None:
    x, v = (tuple([torch.rand(1, 2, 4, 3, dtype=DOUBLE) for _ in range(3)]) for _ in range(2))
    attend = torch.nn.functional.scaled_dot_product_attention
    compiled = _whole(lambda x, v: functional.jvp(attend, x, v))
    assert_values(compiled(x, v), functional.jvp(attend, x, v), rtol=1e-10, atol=1e-12)
