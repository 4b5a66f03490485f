"""Functions with something wrong in them; the guilty line of each ends in the mark."""

from __future__ import annotations

import itertools
import math

import torch
from torch.utils.checkpoint import checkpoint

from ..underivable import cube

MARK = "  # guilty"
POINT = torch.linspace(0.5, 1.5, 6, dtype=torch.float64).reshape(2, 3)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3


class Once(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


class Constant(Cube):
    """Its backward takes what it saved for a constant."""

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * cotangent


class Twice(Cube):
    """The backward of its backward has a wrong factor."""

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return TwiceBackward.apply(cotangent, x)  # guilty


class TwiceBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cotangent, x):
        ctx.save_for_backward(cotangent, x)
        return 3 * x**2 * cotangent

    @staticmethod
    def backward(ctx, again):
        cotangent, x = ctx.saved_tensors
        return 3 * x**2 * again, 5 * x * cotangent * again


class Wrong(Cube):
    """Its gradient has a wrong factor."""

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 2 * x**2 * cotangent


class Applied(torch.autograd.Function):
    """A matrix times a vector; its gradient by the matrix takes the cotangent for a constant."""

    @staticmethod
    def forward(ctx, matrix, vector):
        ctx.save_for_backward(matrix, vector)
        return matrix @ vector

    @staticmethod
    def backward(ctx, cotangent):
        matrix, vector = ctx.saved_tensors
        return torch.outer(cotangent.detach(), vector) + 0 * matrix, matrix.mT @ cotangent


class Tripled(torch.autograd.Function):
    """A custom function with nothing wrong in it."""

    @staticmethod
    def forward(ctx, x):
        return 3 * x.detach()

    @staticmethod
    def backward(ctx, cotangent):
        return 3 * cotangent


class WrongProduct(torch.autograd.Function):
    """Takes any number of factors, and its context in a method of its own; its gradient has a wrong factor."""

    @staticmethod
    def forward(*factors):
        return math.prod([factor.detach() for factor in factors])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.total = output.detach().sum()

    @staticmethod
    def backward(ctx, cotangent):
        x, y = ctx.saved_tensors
        return 2 * cotangent * y, cotangent * x


def no_derivative(x):
    y = x.sin()
    return cube(y).sum()  # guilty


def no_derivative_deep_in_modules(x):
    class Cubes(torch.nn.Module):
        def forward(self, x):
            return cube(x)  # guilty

    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Sequential(Cubes(), torch.nn.Tanh()))
    return model(x).sum()


def no_derivative_in_a_checkpoint(x):
    def part(y):
        return cube(y).cos()  # guilty

    return checkpoint(part, x.sin(), use_reentrant=False).sum()


def once_differentiable(x):
    y = Once.apply(x)  # guilty
    return (y**2).sum()


def constant_in_backward(x):
    y = Tripled.apply(x)
    return Constant.apply(y).sum()  # guilty


def constant_cotangent_among_innocents(x):
    """Operators of symmetric matrices, and a rule of hesse's, whose arguments belong together."""
    matrix = x.mT @ x + torch.eye(3, dtype=x.dtype)
    root = torch.linalg.cholesky(matrix)
    values = torch.linalg.eigvalsh(matrix)
    solution = torch.cholesky_solve(x.mT, root)
    attended = torch.nn.functional.scaled_dot_product_attention(x[None], x[None].sin(), x[None])
    normal = torch.nn.functional.layer_norm(x.to(x), (3,))
    distances = torch.cdist(x, x * 2)
    innocent = sum([part.square().sum() for part in (root, values, solution, attended, normal, distances)])
    y = Applied.apply(root, x[0])  # guilty
    return y.square().sum() + innocent


def wrong_double_backward(x):
    y = Tripled.apply(x).exp()
    return Twice.apply(y).log().sum()


def wrong_backward(x):
    y = Wrong.apply(x)  # guilty
    return y.sum()


def wrong_backward_of_many(x):
    y = WrongProduct.apply(x, x.exp())  # guilty
    return y.sum()


def no_grad(x):
    y = x.sin()
    with torch.no_grad():  # guilty
        weights = y.exp()
    return (weights * y).sum()


def no_grad_around_everything(x):
    with torch.no_grad():  # guilty
        return (x**3).sum()


@torch.no_grad()
def _scale(x):
    return x.norm()


def no_grad_decorator(x):
    scale = _scale(x)  # guilty
    return ((x / scale) ** 3).sum()


def inference_mode(x):
    with torch.inference_mode():
        weights = x.exp()  # guilty
    return (weights.clone() * x.sin()).sum()


def detach(x):
    logged = x.detach().sum()
    assert logged > 0
    mean = x.mean().detach()  # guilty
    return ((x - mean) ** 4).sum()


def data(x):
    norm = x.data.norm()  # guilty
    return (x**3).sum() / norm


def item(x):
    largest = x.sum().item()  # guilty
    return (x**2).sum() * largest


def rebuilt(x):
    numbers = x.tolist()  # guilty
    return torch.tensor(numbers, dtype=x.dtype).pow(3).sum()


def inner_gradient(x):
    with torch.enable_grad():
        energy = (x**4).sum()
    (force,) = torch.autograd.grad(energy, x)  # guilty
    return (force * x).sum()


def random(x):
    return (x + torch.rand(3)).pow(3).sum()  # guilty


def dropout(x):
    y = torch.nn.functional.dropout(x.sin(), 0.5)  # guilty
    return (y**2).sum()


_calls = itertools.count(1)


def counting(x):
    y = x.sin()
    y = y * next(_calls)  # guilty
    return y.exp().sum()


_state = torch.zeros((), dtype=torch.float64)


def changing(x):
    _state.add_(1.0)  # guilty
    return (x**3).sum() * _state


def rounding(x):
    y = (10 * x).round()  # guilty
    return y.sum()


def sign(x):
    return (x.sign() * 3).sum()  # guilty


def argmax(x):
    best = x.argmax()  # guilty
    return best.to(x.dtype) * 2


def in_place(x):
    y = x.exp()
    z = (y * y).sum()
    y.add_(1)  # guilty
    return z


def in_place_late(x):
    y = x.sin()
    z = y.exp()
    w = z * 2
    z[0] = 0.0  # guilty
    return (w * x).sum()


def not_a_number(x):
    y = (x - 2).sqrt()  # guilty
    return y.sum()


def infinite(x):
    return (x - x).sum().reciprocal()  # guilty


def gradient_not_finite(x):
    y = (x - x.detach()[0]).abs()
    return y.sqrt().sum()  # guilty


def norm_at_zero(x):
    y = x * 0.0
    return y.norm() * math.pi  # guilty


_captured = torch.ones(3, dtype=torch.float64, requires_grad=True)


def detach_beside_innocent_ones(x):
    scale = _captured.detach()
    x.sum().detach()
    weights = (x * scale).detach()  # guilty
    return (weights * x**2).sum()


def hook(x):
    y = x.sin()
    y.register_hook(lambda cotangent: 2 * cotangent)  # guilty
    return (y**2).sum()


def equilibrium(x):
    """A fixed point z = tanh(z / 4 + x), whose hook solves for the gradient by inner gradients without a graph."""
    z = x.detach()
    for _ in range(60):
        z = (z / 4 + x.detach()).tanh()
    z = z.requires_grad_()
    again = (z / 4 + x.detach()).tanh()

    def solve(gradient):
        solved = gradient
        for _ in range(60):
            solved = gradient + torch.autograd.grad(again, z, solved, retain_graph=True)[0]
        return solved

    fixed = (z.detach() / 4 + x).tanh()  # guilty
    fixed.register_hook(solve)
    return (fixed**2).sum()


def through_numpy(x):
    array = x.detach().numpy()  # guilty
    return (torch.from_numpy(array**2) * x).sum()


def wrong_in_pytorch(x):
    tail = x.sin().flatten()[2:]
    # It looks at memory beside its tensor, of which the gradient knows nothing.
    y = tail.as_strided((2,), (1,), 1)  # guilty
    return (y**3).sum()


def half(x):
    y = x.half()  # guilty
    return y.exp().double().sum()


def compiled(x):
    torch.compiler.set_stance("default")
    return _compiled(x)  # guilty


_compiled = torch.compile(lambda x: (x**3).sum(), backend="aot_eager")
