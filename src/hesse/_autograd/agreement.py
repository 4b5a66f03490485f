"""Whether a batched backward agrees with single ones; for some operators PyTorch's does not, without a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# A batch sums in another order; what differs by more than rounding is wrong.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_DEFAULT_ROUNDING = 5e-2


def coarsest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The real dtype of these tensors that rounds most."""
    return max((tensor.dtype.to_real() for tensor in tensors), key=lambda dtype: torch.finfo(dtype).eps)


def disagreement(batched: Sequence[Tensor], singles: Sequence[Tensor], *, precision: torch.dtype) -> float:
    """The largest difference of a leaf over what rounding in ``precision`` allows it; above 1 the batch is wrong.

    Allowed are a share of the leaf's own norm, and a hundred roundings of the norm of all leaves: a
    derivative that vanishes is nothing but rounding.
    """
    norms = [float(_finite(single).norm()) for single in singles]
    total = sum(norm**2 for norm in norms) ** 0.5
    worst = 0.0
    for batch, single, norm in zip(batched, singles, norms, strict=True):
        if not torch.equal(torch.isfinite(batch), torch.isfinite(single)):
            return float("inf")
        allowed = _ROUNDING.get(precision, _DEFAULT_ROUNDING) * norm + 100 * torch.finfo(precision).eps * total
        difference = float((_finite(batch) - _finite(single)).norm())
        if difference > 0:
            worst = max(worst, difference / allowed if allowed > 0 else float("inf"))
    return worst


def _finite(tensor: Tensor) -> Tensor:
    return torch.where(torch.isfinite(tensor), tensor, 0)
