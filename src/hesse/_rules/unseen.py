"""What rules would decide by values where there are none: programs find out at each point whether it matters.

A program is captured without values. A rule that some values call for is left out of it, and gives a condition in its
place, which the program computes at every point. Where it holds, the tape linearizes instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hesse._base import handed_on

_CONDITIONS = "hesse.unseen"
"""Key of the conditions, in the storage PyTorch hands on to a backward's threads."""


class Conditions:
    """Truth values, each a tensor, that are collected until it is closed.

    Checkpoints evaluate again afterwards, and what they evaluate must be the same.
    """

    def __init__(self) -> None:
        self.found: list[Tensor] = []
        self.is_open = True

    def close(self) -> None:
        """Add nothing more."""
        self.is_open = False


@contextlib.contextmanager
def watched() -> Iterator[Conditions]:
    """Conditions that are added to meanwhile."""
    conditions = Conditions()
    handed_on.put(_CONDITIONS, conditions)
    try:
        yield conditions
    finally:
        handed_on.put(_CONDITIONS, None)


def is_watching() -> bool:
    """Whether conditions are wanted."""
    return _conditions() is not None


def _conditions() -> Conditions | None:
    return torch._C._get_obj_in_tls(_CONDITIONS) if torch._C._is_key_in_tls(_CONDITIONS) else None


def watch_zeros(norm: Tensor, zero: Callable[[], Tensor] | None = None) -> Tensor:
    """The norm; the condition is that it is zero, as ``zero`` says where that is given, and its cotangent as well.

    That is where a function of a norm may be smooth. Conditions are collected for gradients that are differentiated.
    """
    if not is_watching():
        return norm
    function: Any = _WatchedNorm
    watched: Tensor = function.apply(norm, norm.detach() == 0 if zero is None else zero())
    return watched


class _WatchedNorm(torch.autograd.Function):
    """The identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(norm: Tensor, zero: Tensor) -> Tensor:
        return norm.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        conditions = _conditions()
        if conditions is not None and conditions.is_open and torch.is_grad_enabled():
            (zero,) = ctx.saved_tensors
            conditions.found.append(_unwrapped(zero & (cotangent.detach() == 0)).any())
        return cotangent, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent.clone()


def _unwrapped(tensor: Tensor) -> Tensor:
    """The values of all samples, outside of the transforms around."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
