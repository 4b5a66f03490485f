"""What the installed PyTorch can do by itself, found out by trying; releases differ, and tests say what they need."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode


@functools.cache
def batches_group_norm() -> bool:
    """Whether a batched backward through the gradient of GroupNorm gives what single ones give."""
    x = torch.randn(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(F.group_norm(x, 2).sin().sum(), x, create_graph=True)
    vectors = torch.randn(3, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    single = [torch.autograd.grad(gradient, x, vector, retain_graph=True)[0] for vector in vectors]
    try:
        (together,) = torch.autograd.grad(gradient, x, vectors, is_grads_batched=True)
    except RuntimeError:
        return False
    return torch.allclose(together, torch.stack(single))


@functools.cache
def differentiates_grid_sample_twice() -> bool:
    """Whether the gradient of ``grid_sample`` has a derivative."""
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    places = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    sampled = F.grid_sample(x, places, align_corners=False).sum()
    (gradient,) = torch.autograd.grad(sampled**2, x, create_graph=True)
    try:
        torch.autograd.grad(gradient.sum(), x)
    except RuntimeError:
        return False
    return True


def differentiates_gathers_twice(mesh: DeviceMesh) -> bool:
    """Whether the gradient through a gathered DTensor has a history, and not a leaf in its place."""
    x = distribute_tensor(torch.ones(2, dtype=torch.float64), mesh, [Shard(0)]).requires_grad_()
    (gradient,) = torch.autograd.grad((x.full_tensor() ** 3).sum(), x, create_graph=True)
    return gradient.grad_fn is not None


class _Called(TorchDispatchMode):
    """Within it, the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@functools.cache
def combines_by_values() -> bool:
    """Whether ``torch.combinations`` selects by a mask, so that its shape depends on values."""
    with _Called() as called:
        torch.combinations(torch.ones(3))
    return "aten.masked_select.default" in called.names
