"""Section 2 for the neighbour hessian: values, structure, vectorize, the outer strategy, strict, differentiability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

import hesse
from hesse.functional import hessian

from .families import detached, disconnected, linear, pair_sum
from .references import DOUBLE, assert_values, dense_hessian, has_history, has_no_history, tensors_of

Wrap = Callable[..., Tensor]
MODES: dict[str, dict[str, Any]] = {
    "rows": {},
    "batch": {"vectorize": True},
    "columns": {"vectorize": True, "outer_jacobian_strategy": "forward-mode"},
}
each_mode = pytest.mark.parametrize("mode", MODES)
each_reverse_mode = pytest.mark.parametrize("mode", ["rows", "batch"])
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "one_input": (lambda x: (x**3).sum() * x.sin().sum(), ((2, 3),)),
    "three_inputs": (lambda x, y, z: (x.cos() * x).mm(y.sin()).mm(z).sum(), ((2, 3), (3, 2), (2, 2))),
    "unrelated_input": (lambda x, y: (x**2).sum(), ((2,), (3,))),
    "linear": (lambda x: x.sum(), ((2, 2),)),
    "input_used_in_part": (lambda x: 3 * x.narrow(0, 0, 3).exp().sum(), ((4,),)),
    "zero_dim_input": (lambda x: x.exp(), ((),)),
    "output_of_three_dims": (lambda x: x.exp().sum().view(1, 1, 1), ((2, 2),)),
}


@each_mode
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.one_in(5)
def test_item_16_hessian_is_that_of_finite_differences_in_every_mode(function: str, mode: str, wrap: Wrap) -> None:
    func, shapes = FUNCTIONS[function]
    inputs = tuple(torch.randn(shape, dtype=DOUBLE) for shape in shapes)
    blocks = hessian(func, tuple(wrap(x) for x in inputs), **MODES[mode])
    assert has_no_history(blocks)
    assert isinstance(blocks, tuple)
    sizes = [x.numel() for x in inputs]
    for row, band, x in zip(blocks, dense_hessian(func, inputs).split(sizes), inputs, strict=True):
        for block, expected, y in zip(row, band.split(sizes, dim=1), inputs, strict=True):
            assert_values(block, expected.reshape(x.shape + y.shape), rtol=1e-6, atol=1e-7)
    if len(shapes) == 1:
        # A lone tensor gives one tensor, not a tuple of one tuple of one.
        assert_values(hessian(func, wrap(inputs[0]), **MODES[mode]), blocks[0][0])


@each_mode
def test_item_13_an_output_related_to_no_input_gives_zeros(mode: str, wrap: Wrap) -> None:
    blocks = hessian(lambda x, y: wrap(torch.ones(())), (wrap(torch.rand(2)), wrap(torch.rand(3))), **MODES[mode])
    assert_values(blocks, tuple(tuple(torch.zeros(i, j) for j in (2, 3)) for i in (2, 3)))


@each_mode
@pytest.mark.parametrize(
    ("func", "error", "message"),
    [
        (lambda a: (a.sum(), "bar"), TypeError, "The outputs of the user-provided function given to hessian must"),
        (lambda a: 3 * a, RuntimeError, "The Tensor returned by the function given to hessian should contain a single"),
        (lambda a: (a.sum(),) * 2, RuntimeError, "The function given to hessian should return a single Tensor$"),
    ],
    ids=["item_02", "item_03", "item_06"],
)
def test_items_02_03_06_outputs_that_have_no_hessian_are_refused(
    func: Callable[[Tensor], Any], error: type[Exception], message: str, mode: str, wrap: Wrap
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        hessian(func, wrap(torch.rand(4)), **MODES[mode])


@each_mode
def test_item_01_an_input_that_is_no_tensor_is_named(mode: str, wrap: Wrap) -> None:
    with pytest.raises(TypeError, match=r"^The inputs given to hessian must be either a Tensor or a tuple of Tensors"):
        hessian(lambda a, b: a.sum(), (wrap(torch.rand(4)), 2), **MODES[mode])


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (detached, "^Output 0 of the user-provided function does not require gradients"),
        (disconnected, "jacobian of the user-provided function with respect to input 0 is independent"),
        (linear, "jacobian of the user-provided function with respect to input 0 is independent"),
    ],
    ids=["item_07", "item_08", "item_09"],
)
def test_items_07_to_09_strict_refuses_what_without_strict_gives_zeros(
    func: Callable[[Tensor], Tensor], message: str, wrap: Wrap
) -> None:
    with pytest.raises(RuntimeError, match=message):
        hessian(func, wrap(torch.rand(4)), strict=True)
    assert_values(hessian(func, wrap(torch.rand(4))), torch.zeros(4, 4))


def test_item_09_strict_passes_a_cubic(wrap: Wrap) -> None:
    x = torch.rand(4)
    assert_values(hessian(lambda a: (a**3).sum(), wrap(x), strict=True), torch.diag(6 * x))


def test_item_09_strict_names_a_block_that_is_not_connected(wrap: Wrap) -> None:
    inputs = (wrap(torch.rand(2)), wrap(torch.rand(2)))
    with pytest.raises(RuntimeError, match=r"^Output 0 of the user-provided function is independent of input 1"):
        hessian(lambda a, b: (a**3).sum() + (b**3).sum(), inputs, strict=True)


@each_reverse_mode
def test_items_10_and_11_no_grad_around_changes_neither_values_nor_history(mode: str, wrap: Wrap) -> None:
    x = torch.rand(3)
    with torch.no_grad():
        without = hessian(lambda x: (x**3).sum(), wrap(x), **MODES[mode])
        graph = hessian(lambda x: (x**3).sum(), wrap(x), create_graph=True, **MODES[mode])
    assert has_no_history(without)
    assert has_history(graph)
    assert_values(without, torch.diag(6 * x))
    assert_values(graph, torch.diag(6 * x))


@each_reverse_mode
@pytest.mark.one_in(5)
def test_item_17_hessian_is_differentiable_twice(mode: str, wrap: Wrap) -> None:
    variables = tuple(wrap(torch.rand(n, dtype=DOUBLE), requires_grad=True) for n in (3, 4))

    def composed(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(hessian(pair_sum, (x.cos(), y), create_graph=True, **MODES[mode])))

    for checked in (gradcheck, gradgradcheck):
        assert checked(composed, variables, fast_mode=True, check_batched_grad=True)


@pytest.mark.parametrize(
    ("modes", "error", "message"),
    [
        ({"strict": True, "vectorize": True}, RuntimeError, "not supported together"),
        ({"create_graph": True, **MODES["columns"]}, NotImplementedError, "not supported together"),
        ({"strict": True, **MODES["columns"]}, RuntimeError, "not supported together"),
        ({"outer_jacobian_strategy": "forward-mode"}, NotImplementedError, "only implemented for `vectorize=True`"),
        ({"outer_jacobian_strategy": "sideways"}, AssertionError, 'either "forward-mode" or "reverse-mode"'),
    ],
    ids=["strict_vectorize", "create_graph_forward", "strict_forward", "forward_rows", "unknown"],
)
def test_modes_that_do_not_go_together_are_refused(modes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hessian(lambda a: (a**3).sum(), torch.rand(4), **modes)


TARGETS = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.0, -0.4]], dtype=DOUBLE)
LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "huber": lambda x, y, reduction: F.huber_loss(x, y, reduction=reduction, delta=0.7),
    "soft margin": lambda x, y, reduction: F.soft_margin_loss(x, TARGETS.sign(), reduction=reduction),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_whose_gradients_have_no_tangent_in_pytorch_go_by_forward_mode(name: str, reduction: str) -> None:
    def func(x: Tensor) -> Tensor:
        return LOSSES[name](x.sin(), TARGETS * x[0, 0], reduction=reduction).square().sum()

    x = torch.tensor([[0.2, -0.9, 1.4], [0.0, 1.0, -0.3]], dtype=DOUBLE)
    expected = dense_hessian(func, (x,)).reshape(2, 3, 2, 3)
    assert_values(hessian(func, x, **MODES["columns"]), expected, rtol=1e-6, atol=1e-7)


def test_an_operator_without_a_tangent_is_named() -> None:
    x = torch.rand(1, 2, 2, 2, dtype=DOUBLE)
    with pytest.raises(hesse.NoDerivativeError, match=r"grid_sampler_2d by forward mode\. Use the reverse mode"):
        hessian(lambda x: F.grid_sample(torch.ones_like(x), x, align_corners=False).sum(), x, **MODES["columns"])


def test_a_function_that_cannot_be_batched_is_refused_with_the_remedy() -> None:
    def func(x: Tensor) -> Tensor:
        return torch.sparse.mm(x.to_sparse(), x).square().sum()

    x = torch.rand(2, 2, dtype=DOUBLE)
    with pytest.raises(RuntimeError, match=r"which vectorize=True asks for, raises: .*\. Call with vectorize=False\.$"):
        hessian(func, x, vectorize=True)
    assert_values(hessian(func, x), hessian(lambda x: (x @ x).square().sum(), x))
