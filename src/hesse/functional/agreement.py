"""Whether a batched backward agrees with single ones; for some operators PyTorch's does not, without a word."""

from __future__ import annotations

import torch
from torch import Tensor

# A batch sums in another order; what differs by more than rounding is wrong.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}


def tolerance(dtype: torch.dtype) -> float:
    """How far, relative to the norm, results in this dtype may differ by rounding alone."""
    return _ROUNDING.get(dtype.to_real(), 5e-2)


def relative_difference(batched: Tensor, singles: Tensor) -> float:
    """‖batched − singles‖ / ‖singles‖ over finite elements; infinite where other elements are finite."""
    finite = torch.isfinite(singles)
    if not torch.equal(torch.isfinite(batched), finite):
        return float("inf")
    scale = torch.where(finite, singles, 0).norm()
    difference = torch.where(finite, batched - singles, 0).norm()
    return float(difference / scale) if scale > 0 else float(difference)
