"""A mark of vectors: two numbers that ranks compare, to see that they multiply the same ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hesse._base.devices import widest
from hesse._base.precision import Exact


def mark(leaves: Sequence[Tensor], device: torch.device) -> Tensor:
    """A weighted sum of all entries, and their norm: (2,), in the widest dtype of the device.

    The weight of an entry depends on its place, so that unit vectors are told apart.
    """
    found = torch.zeros(2, dtype=widest(device), device=device)
    # Autocast would leave few digits.
    with Exact() if leaves else contextlib.nullcontext():
        for leaf in leaves:
            if leaf.layout == torch.strided and leaf.numel() and _is_inexact(leaf):
                found += _mark(leaf.detach()).to(device)
    return found


def _mark(leaf: Tensor) -> Tensor:
    flat = (torch.view_as_real(leaf.resolve_conj()) if leaf.dtype.is_complex else leaf).reshape(-1)
    if flat.dtype.itemsize < 4:
        flat = flat.float()
    width = math.isqrt(len(flat))
    whole = len(flat) // width * width
    weights = _weights(width, flat)
    total = _weights(whole // width, flat).cos() @ (flat[:whole].view(-1, width) @ weights)
    total = total + flat[whole:] @ weights[: len(flat) - whole]
    return torch.stack([total, torch.linalg.vector_norm(flat)]).to(widest(flat.device))


def _weights(length: int, like: Tensor) -> Tensor:
    return torch.arange(1, length + 1, dtype=like.dtype, device=like.device).sin()


def rounding(leaves: Sequence[Tensor]) -> float:
    """How far, relatively, marks of one vector may differ: ranks may have rounded its entries otherwise."""
    return math.sqrt(max([torch.finfo(leaf.dtype).eps for leaf in leaves if _is_inexact(leaf)], default=0.0))


def _is_inexact(leaf: Tensor) -> bool:
    return leaf.dtype.is_floating_point or leaf.dtype.is_complex


def differs(first: Tensor, second: Tensor, alike: float) -> bool:
    """Whether two marks are of different vectors; of vectors that are not finite they say nothing."""
    scale = float(torch.maximum(first[1], second[1]))
    return bool(((first - second).abs() > alike * scale).any())
