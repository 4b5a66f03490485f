"""Products of the matrices of a block, by whichever library is fastest for them."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base import onednn

# Shorter sequences have products that are too small to gain by it; PyTorch's kernels lose only to longer ones.
_LEAST_KEYS, _LEAST_KEYS_FOR_VALUES = 1024, 2048


def prefers_single_matrices(key: Tensor) -> bool:
    """Whether products with keys (…, T, E) are faster one matrix at a time than many at once."""
    return onednn.available and key.device.type == "cpu" and key.dtype is torch.float32 and key.shape[-2] >= _LEAST_KEYS


def outruns_kernels(key: Tensor) -> bool:
    """Whether the gradients too are faster in blocks than by PyTorch's own kernel, for keys (…, T, E)."""
    return prefers_single_matrices(key) and key.shape[-2] >= _LEAST_KEYS_FOR_VALUES and onednn.fast_here()


def product(a: Tensor, b: Tensor) -> Tensor:
    """a · b for matrices (h, m, k) and (h, k, n), each contiguous or the transpose of what is."""
    if not _by_onednn(a):
        return torch.bmm(a, b)
    return onednn.product(a[0], b[0]).unsqueeze(0)


def added_product(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c + a · b, as a new tensor; c may be a column (h, m, 1)."""
    return product(a, b).add_(c) if _by_onednn(a) else torch.baddbmm(c, a, b)


def _by_onednn(a: Tensor) -> bool:
    return onednn.available and len(a) == 1 and a.device.type == "cpu" and a.dtype is torch.float32
