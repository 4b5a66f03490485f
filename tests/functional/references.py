"""Independent references: dense derivatives by central differences, and what tests ask of results and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.logging_tensor import LoggingTensor

from .logging_tensor import LoggedTensor

DOUBLE = torch.float64


def dense_hessian(func: Callable[..., Tensor], inputs: Sequence[Tensor], step: float = 1e-5) -> Tensor:
    """The Hessian over all inputs laid end to end, by central differences of the float64 gradient."""
    inputs = [x.detach().to(DOUBLE) for x in inputs]
    sizes = [x.numel() for x in inputs]
    flat = torch.cat([x.reshape(-1) for x in inputs])

    def gradient_at(point: Tensor) -> Tensor:
        leaves = [
            part.reshape(x.shape).clone().requires_grad_() for part, x in zip(point.split(sizes), inputs, strict=True)
        ]
        gradient = torch.autograd.grad(func(*leaves).sum(), leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in gradient])

    rows = []
    for i in range(flat.numel()):
        shift = torch.zeros_like(flat)
        shift[i] = step
        rows.append((gradient_at(flat + shift) - gradient_at(flat - shift)) / (2 * step))
    return torch.stack(rows)


def dense_product(
    func: Callable[..., Tensor], inputs: Sequence[Tensor], vector: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """vᵀ · Hessian with the dense Hessian of :func:`dense_hessian`, cut into the shapes of ``inputs``."""
    flat = torch.cat([v.detach().to(DOUBLE).reshape(-1) for v in vector]) @ dense_hessian(func, inputs)
    parts = flat.split([x.numel() for x in inputs])
    return tuple(part.reshape(x.shape) for part, x in zip(parts, inputs, strict=True))


def unwrap(value: Any) -> Any:
    """Wrapper subclasses replaced by what they wrap, in tensors and nested tuples of tensors."""
    if isinstance(value, tuple):
        return tuple(unwrap(entry) for entry in value)
    if isinstance(value, LoggedTensor):
        return value.inner
    if isinstance(value, LoggingTensor):
        return value.elem
    return value.detach()


def assert_values(actual: Any, expected: Any, **tolerances: float) -> None:
    """The same structure of tuples, shapes, dtypes and, up to rounding, values; wrappers looked into."""
    torch.testing.assert_close(unwrap(actual), unwrap(expected), **tolerances)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors of nested tuples."""
    if isinstance(value, tuple):
        for entry in value:
            yield from tensors_of(entry)
    else:
        yield value


def has_no_history(value: Any) -> bool:
    """Whether no tensor of nested tuples has a graph behind it or starts one."""
    return all(tensor.grad_fn is None and not tensor.requires_grad for tensor in tensors_of(value))


def has_history(value: Any) -> bool:
    """Whether every tensor of nested tuples has a graph behind it."""
    return all(tensor.grad_fn is not None for tensor in tensors_of(value))
