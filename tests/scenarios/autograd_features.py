"""Functions that use autograd's own machinery: checkpoints, hooks, custom functions, derivatives inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from .networks import parameters_of
from .scenario import Case, draw, scenario


@scenario
def checkpointed_block() -> Case:
    first, second = draw(4, 3), draw(3, 4)

    def block(x: Tensor) -> Tensor:
        return torch.tanh(x @ first) @ second

    def func(x: Tensor) -> Tensor:
        return (checkpoint(block, torch.sin(x), use_reentrant=False) ** 2).sum()

    return Case(func, draw(2, 4))


@scenario
def checkpointed_block_with_dropout() -> Case:
    weight = draw(4, 6)

    def block(x: Tensor) -> Tensor:
        return torch.dropout(torch.tanh(x @ weight), 0.5, True)

    def func(x: Tensor) -> Tensor:
        return (checkpoint(block, x, use_reentrant=False).sum(-1) ** 2).sum()

    return Case(func, draw(2, 4))


@scenario
def saved_tensors_packed_by_hooks() -> Case:
    def func(x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept * 2, lambda packed: packed / 2):
            return (torch.sin(x) * x**2).sum()

    return Case(func, draw(4))


class Cube(Function):
    """x³ with a hand-written backward made of differentiable operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


@scenario
def custom_function_with_differentiable_backward() -> Case:
    x = draw(4)
    return Case(lambda x: Cube.apply(x).sum(), x, torch.diag(6 * x))


class SineBackward(Function):
    """The backward of ``Sine`` as a function with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(x, grad)
        return torch.cos(x) * grad

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, Tensor]:
        x, grad = ctx.saved_tensors
        return -torch.sin(x) * grad * upper, torch.cos(x) * upper


class Sine(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return SineBackward.apply(x, grad)


@scenario
def custom_function_with_custom_double_backward() -> Case:
    return Case(lambda x: Sine.apply(Sine.apply(x) * x).prod(), draw(3))


@scenario
def physics_informed_network() -> Case:
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    points = draw(5, 1).requires_grad_()

    def func(parameters: dict[str, Tensor]) -> Tensor:
        u = torch.func.functional_call(model, parameters, (points,))
        (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
        return ((curvature + u**3) ** 2).mean()

    return Case(func, parameters_of(model))


@scenario
def gradient_by_the_input_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad((torch.sin(x) * x).sum(), x, create_graph=True)
        return (slope**2).sum()

    return Case(func, draw(3))


@scenario
def loss_after_steps_of_gradient_descent() -> Case:
    features, targets = draw(5, 3), draw(5)

    def func(start: Tensor, log_rate: Tensor) -> Tensor:
        weights = start
        for _ in range(2):
            loss = (torch.tanh(features @ weights) - targets).pow(2).mean()
            (slope,) = torch.autograd.grad(loss, weights, create_graph=True)
            weights = weights - log_rate.exp() * slope
        return (torch.tanh(features @ weights) - targets).pow(2).mean()

    return Case(func, (draw(3), draw() - 1))


@scenario
def functional_transforms_inside() -> Case:
    def func(x: Tensor) -> Tensor:
        slopes = torch.func.vmap(torch.func.grad(lambda row: (torch.sin(row) * row).prod()))(x)
        return (slopes**2).sum()

    return Case(func, draw(2, 2))


@scenario
def gradient_scaled_by_a_hook_both_ways() -> Case:
    def func(x: Tensor) -> Tensor:
        # The hook multiplies by what a second hook divides by: it must run, and change nothing.
        y = torch.sin(x)
        y.register_hook(lambda grad: grad * 4)
        z = y * 1
        z.register_hook(lambda grad: grad / 4)
        return (z**3).sum()

    return Case(func, draw(3))


@scenario
def part_without_gradients() -> Case:
    def func(x: Tensor) -> Tensor:
        # What no_grad hides is a constant of the function that is differentiated, so finite differences
        # of the gradient at a moved point do see it move: keep it independent of x.
        with torch.no_grad():
            scale = torch.full((), 2.0, dtype=x.dtype).sqrt()
        return (scale * x**3).sum()

    x = draw(3)
    return Case(func, x, torch.diag(6 * 2**0.5 * x))


@scenario
def graph_deeper_than_the_recursion_limit() -> Case:
    def func(x: Tensor) -> Tensor:
        for _ in range(600):
            x = x + 0.002 * torch.sin(x)
        return (x**2).sum()

    return Case(func, draw(2))
