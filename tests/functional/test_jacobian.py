"""Section 2 for the neighbour jacobian: values, structure, vectorize, strategy, strict mode and differentiability."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from hesse.functional import jacobian

from .references import DOUBLE, assert_values, has_history, has_no_history, unwrap

Wrap = Callable[..., Tensor]
MODES: dict[str, dict[str, Any]] = {
    "rows": {},
    "batch": {"vectorize": True},
    "columns": {"vectorize": True, "strategy": "forward-mode"},
}
each_mode = pytest.mark.parametrize("mode", MODES)
each_reverse_mode = pytest.mark.parametrize("mode", ["rows", "batch"])


def _multiply_and_reduce(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (x * x).mm(y), x.mm(x.sum(1)[:, None].mul(y.T).T), y.sum()


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "one_input": (lambda x: 3 * x**2, ((2, 3),)),
    "two_inputs": (lambda x, y: (x.cos() * x).mm(y.sin()), ((2, 3), (3, 4))),
    "several_outputs": (_multiply_and_reduce, ((3, 3), (3, 3))),
    "unrelated_outputs": (lambda x, y: (x, y, x.clone(), y.clone()), ((2,), (3,))),
    "zero_dim_outputs": (lambda x, y: (x.sum(), y.sum(), x * y), ((3,), (3,))),
    "zero_dim_input": (lambda x: torch.stack([x, x**2, x**3]), ((),)),
    "zero_dim_mixed": (lambda x, y: (y.sum(), x * y), ((), (1,))),
    "input_used_in_part": (lambda x: 3 * x.narrow(0, 0, 3).exp(), ((4,),)),
}


@each_mode
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.one_in(5)
def test_item_16_jacobian_is_that_of_torch_func_in_every_mode(function: str, mode: str, wrap: Wrap) -> None:
    func, shapes = FUNCTIONS[function]
    inputs = tuple(torch.randn(shape, dtype=DOUBLE) for shape in shapes)
    expected = torch.func.jacrev(func, argnums=tuple(range(len(shapes))))(*inputs)
    actual = jacobian(func, tuple(wrap(x) for x in inputs), **MODES[mode])
    assert has_no_history(actual)
    assert_values(actual, expected)
    if len(shapes) == 1:
        # A lone tensor, not a tuple of one, gives entries that are tensors, not tuples of one.
        alone = jacobian(func, wrap(inputs[0]), **MODES[mode])
        torch.testing.assert_close(unwrap(alone), expected[0])


@each_reverse_mode
def test_dtype_in_reverse_mode_is_that_of_the_input(mode: str) -> None:
    inputs = (torch.rand(3), torch.rand(3))
    blocks = jacobian(lambda x, y: ((x * y).float(), (x * y).double()), inputs, **MODES[mode])
    assert {block.dtype for row in blocks for block in row} == {torch.float32}


def test_dtype_in_forward_mode_is_that_of_the_output() -> None:
    blocks = jacobian(lambda x: (x.float(), x.double()), torch.rand(3), **MODES["columns"])
    assert [block.dtype for block in blocks] == [torch.float32, torch.float64]


@each_mode
def test_item_01_an_input_that_is_no_tensor_is_named(mode: str, wrap: Wrap) -> None:
    with pytest.raises(TypeError, match=r"^The inputs given to jacobian must be either a Tensor or a tuple of Tensors"):
        jacobian(lambda a, b: a, (wrap(torch.rand(4)), 2), **MODES[mode])


@each_mode
def test_item_02_an_output_that_is_no_tensor_is_named(mode: str, wrap: Wrap) -> None:
    with pytest.raises(TypeError, match=r"^The outputs of the user-provided function given to jacobian must be"):
        jacobian(lambda a: (a, "bar"), wrap(torch.rand(4)), **MODES[mode])


def test_item_07_strict_refuses_an_output_that_requires_no_gradients(wrap: Wrap) -> None:
    x = wrap(torch.rand(4))
    with pytest.raises(RuntimeError, match=r"^Output 0 of the user-provided function does not require gradients"):
        jacobian(lambda a: a.detach(), x, strict=True)
    assert_values(jacobian(lambda a: a.detach(), x), torch.zeros(4, 4))


def test_item_08_strict_refuses_an_input_an_output_is_not_connected_to(wrap: Wrap) -> None:
    def disconnected(a: Tensor) -> Tensor:
        return a.long().float().requires_grad_().clone()

    x = wrap(torch.rand(4))
    message = "Output 0 of the user-provided function is independent of input 0. This is not allowed in strict mode."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        jacobian(disconnected, x, strict=True)
    assert_values(jacobian(disconnected, x), torch.zeros(4, 4))


def test_item_08_strict_gives_the_index_of_output_and_input(wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(2)), wrap(torch.rand(2)))
    with pytest.raises(RuntimeError, match=r"^Output 1 of the user-provided function is independent of input 0"):
        jacobian(lambda a, b: (a * b, b.sin()), inputs, strict=True)


def test_item_09_strict_with_create_graph_refuses_a_jacobian_that_is_constant(wrap: Wrap) -> None:
    x = wrap(torch.rand(4), requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^The jacobian of the user-provided function is independent of input 0"):
        jacobian(lambda a: a.clone(), x, create_graph=True, strict=True)
    assert_values(jacobian(lambda a: a.clone(), x, create_graph=True), torch.eye(4))


@each_reverse_mode
def test_items_10_and_11_no_grad_around_changes_neither_values_nor_history(mode: str, wrap: Wrap) -> None:
    x = torch.rand(3, 2)
    expected = torch.diag_embed(torch.ones(3))[..., None] * x.exp()
    with torch.no_grad():
        without = jacobian(lambda x: x.exp().sum(dim=1), wrap(x), **MODES[mode])
        graph = jacobian(lambda x: x.exp().sum(dim=1), wrap(x), create_graph=True, **MODES[mode])
    assert has_no_history(without)
    assert has_history(graph)
    assert_values(without, expected)
    assert_values(graph, expected)


@each_reverse_mode
@pytest.mark.one_in(5)
def test_item_17_jacobian_is_differentiable_twice(mode: str, wrap: Wrap) -> None:
    def func(x: Tensor, y: Tensor) -> Tensor:
        return (x + y).exp().sum(dim=1)

    variables = tuple(wrap(torch.rand(2, 2, dtype=DOUBLE), requires_grad=True) for _ in range(2))

    def composed(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return jacobian(func, (x.cos(), y), create_graph=True, **MODES[mode])

    for checked in (gradcheck, gradgradcheck):
        assert checked(composed, variables, fast_mode=True, check_batched_grad=True)


@pytest.mark.parametrize(
    ("modes", "error", "message"),
    [
        ({"strict": True, "vectorize": True}, RuntimeError, "not supported together"),
        ({"create_graph": True, **MODES["columns"]}, NotImplementedError, "not supported together"),
        ({"strict": True, **MODES["columns"]}, RuntimeError, "not supported together"),
        ({"strategy": "forward-mode"}, NotImplementedError, "only implemented for `vectorize=True`"),
        ({"strategy": "sideways"}, AssertionError, 'either "forward-mode" or "reverse-mode"'),
    ],
    ids=["strict_vectorize", "create_graph_forward", "strict_forward", "forward_rows", "unknown"],
)
def test_modes_that_do_not_go_together_are_refused(modes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jacobian(lambda a: a.exp(), torch.rand(4), **modes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("temperature", [50, 200])
def test_saturated_softmaxes_are_batched(dtype: torch.dtype, temperature: int) -> None:
    x = torch.randn(24, 20, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for point in x.T:
        s = (temperature * point).softmax(0)
        found = jacobian(lambda x: (temperature * x).softmax(0), point, vectorize=True)
        torch.testing.assert_close(found, temperature * (s.diag() - torch.outer(s, s)))
