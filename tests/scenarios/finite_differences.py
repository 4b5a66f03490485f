"""Derivatives by central differences in float64, with one step of Richardson extrapolation.

The Hessian comes from differences of plain ``torch.autograd.grad``, the gradient from differences of values;
nothing here knows hesse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .flat import flat, leaves_of, rebuilt, unflat

STEP = 1e-3


def evaluate(func: Callable[..., Any], inputs: Any) -> Any:
    """``func(inputs)``, where only an outermost tuple is splatted."""
    return func(*inputs) if isinstance(inputs, tuple) else func(inputs)


def value_at(func: Callable[..., Tensor], inputs: Any, x: Tensor, seed: int) -> Tensor:
    """The value at the flat point ``x``, as a float64 vector of length 1."""
    return _evaluate_at(func, inputs, x, seed)[0].detach().reshape(1).double()


def gradient_at(func: Callable[..., Tensor], inputs: Any, x: Tensor, seed: int) -> Tensor:
    """The flat gradient at the flat point ``x``, by eager autograd."""
    output, leaves = _evaluate_at(func, inputs, x, seed)
    if not output.requires_grad:
        return torch.zeros_like(x)
    return flat(torch.autograd.grad(output.sum(), leaves, allow_unused=True, materialize_grads=True))


def _evaluate_at(func: Callable[..., Tensor], inputs: Any, x: Tensor, seed: int) -> tuple[Tensor, list[Tensor]]:
    point = unflat(x, inputs, double=True)
    leaves = [leaf.requires_grad_() for leaf in leaves_of(point)]
    # A reference leaves the generator as it was: a test may ask for it between building and evaluating.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return evaluate(func, rebuilt(point, leaves)), leaves


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The matrix of derivatives of a vector function of a vector, one column an element of ``x``."""
    columns = []
    for i in range(len(x)):
        direction = torch.zeros_like(x)
        direction[i] = STEP * max(1.0, abs(float(x[i])))
        wide = (function(x + direction) - function(x - direction)) / (2 * direction[i])
        narrow = (function(x + direction / 2) - function(x - direction / 2)) / direction[i]
        columns.append((4 * narrow - wide) / 3)
    return torch.stack(columns, dim=-1)
