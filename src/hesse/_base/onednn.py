"""Products of matrices by oneDNN, under a name of PyTorch's that is private, for processors where they are the faster.

On processors of AMD that have AVX-512, MKL keeps to half the width of the registers, and oneDNN is twice as fast or
more; which products gain is a matter of their shapes. Of a matrix and a vector, MKL's product runs on one thread, and
oneDNN's on all. Nothing is measured, so that each process on a machine chooses the same and has the same digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base.processor import processor

available = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build of PyTorch has oneDNN."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """a · b for matrices (m, k) and (k, n) in single precision, each contiguous or the transpose of what is."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
    return result


def outruns(a: Tensor, b: Tensor) -> bool:
    """Whether :func:`product` is faster than ``torch.mm`` for matrices laid out like these, which may hold no numbers.

    A function of their layout, so that two processes on a machine choose the same.
    """
    return (
        available
        and bool(torch.backends.mkldnn.enabled)
        and all(entry.device.type == "cpu" and entry.dtype is torch.float32 for entry in (a, b))
        and _gains(a.shape[0], a.shape[1], b.shape[1])
        and ((1 in (a.shape[0], b.shape[1]) and torch.get_num_threads() > 1) or fast_here())
    )


def _gains(m: int, k: int, n: int) -> bool:
    """Not the smallest, nor those of few sums over many terms, which oneDNN does not share out among threads."""
    return k >= 16 and m * k * n >= 2**20 and (k <= 8 * max(m, n) or min(m, n) == 1)


def fast_here() -> bool:
    """Whether oneDNN uses wider registers than ``torch.mm``: of AVX-512 on AMD, MKL uses half."""
    return "AMD" in processor() and torch.backends.cpu.get_cpu_capability() == "AVX512"
