"""Cubes as custom functions, each with a backward that autograd cannot follow; and some that it can."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    """Without a backward of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)


class WithoutGraph(Cube):
    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            return 3 * x**2 * cotangent


class Detached(Cube):
    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (3 * x**2 * cotangent).detach()


class Marked(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


class InnerGradient(Cube):
    """Computes again and differentiates that, as the adjoint method does."""

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            again = x.detach().requires_grad_()
            return torch.autograd.grad(again**3, again, cotangent)[0]


class Numpy(torch.autograd.Function):
    """Leaves PyTorch, as kernels of one's own do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * cotangent.detach().numpy())


class Product(torch.autograd.Function):
    """x·y, whose gradient by y alone has no history."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.factor = factor
        return factor * x * y

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, Tensor]:
        x, y = ctx.saved_tensors
        return ctx.factor * y * cotangent, None, (ctx.factor * x * cotangent).detach()


class Opaque2(Cube):
    """A backward that is a custom function itself, whose own backward has no graph."""

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _Slope.apply(x, cotangent)


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cotangent: Tensor) -> Tensor:
        ctx.save_for_backward(x, cotangent)
        return 3 * x**2 * cotangent

    @staticmethod
    def backward(ctx: Any, again: Tensor) -> tuple[Tensor, Tensor]:
        x, cotangent = ctx.saved_tensors
        with torch.no_grad():
            return 6 * x * cotangent * again, 3 * x**2 * again


class Tripled(Cube):
    """Linear, so that its gradient has no history where the cotangent has none."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return 3 * cotangent


class Sign(Cube):
    """A step function: zeros without history are its gradient."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return torch.zeros_like(cotangent)


class MarkedSign(Sign):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return torch.zeros_like(cotangent)


class Pair(torch.autograd.Function):
    """Two outputs, of one input each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x**3, 2 * y

    @staticmethod
    def backward(ctx: Any, by_x: Tensor, by_y: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * by_x, 2 * by_y
