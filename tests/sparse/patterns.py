"""Patterns to compare with: where second derivatives differ from zero at random points, by PyTorch's own Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hesse

Function = Callable[..., Tensor]


def numeric_pattern(func: Function, inputs: tuple[Tensor, ...], points: int = 20, scale: float = 1.0) -> Any:
    """Entries of the dense Hessian that differ from zero at one of several random points."""
    generator = torch.Generator().manual_seed(3)
    found = None
    for _ in range(points):
        x = tuple([scale * torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in inputs])
        blocks = torch.autograd.functional.hessian(func, x)
        rows = [
            torch.cat([block.reshape(leaf.numel(), -1) for block in row], 1)
            for leaf, row in zip(x, blocks, strict=True)
        ]
        there = (torch.cat(rows) != 0).numpy()
        found = there if found is None else found | there
    return found


def numeric_jacobian_pattern(func: Function, x: Tensor, points: int = 20) -> Any:
    """Entries of the dense Jacobian that differ from zero at one of several random points."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(points):
        point = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        found.append((torch.autograd.functional.jacobian(func, point).reshape(-1, x.numel()) != 0).numpy())
    return np.logical_or.reduce(found)


def jacobian_pattern(func: Function, inputs: Any) -> Any:
    """What a Jacobian finds of itself."""
    return hesse.Jacobian(func, inputs)._find_pattern()
