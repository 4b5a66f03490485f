"""Whether two ways to the same products agree, as batched backwards and single ones: some of PyTorch's do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

# A batch sums in another order; what differs by more than rounding is wrong.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
_DEFAULT_ROUNDING = 5e-2


def coarsest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The real dtype of these tensors that rounds most."""
    return max((tensor.dtype.to_real() for tensor in tensors), key=lambda dtype: torch.finfo(dtype).eps)


Again = Callable[[], Sequence[Tensor]]
"""The same products, leaf by leaf, of the vectors times :data:`FACTOR`."""

# No power of two, by which nothing would round otherwise.
FACTOR = 0.7


Apart = Callable[[], Iterable[Sequence[Tensor]]]
"""The same products, leaf by leaf, each the sum of the products of two parts of a vector."""


def disagreement(
    ours: Sequence[Tensor],
    expected: Sequence[Tensor],
    *,
    precision: torch.dtype,
    again: Sequence[Again] = (),
    apart: Apart | None = None,
) -> float:
    """The largest difference of a leaf over what rounding allows it; above 1 one of the two is wrong.

    Allowed are a share of the leaf's own norm, and a hundred roundings in ``precision`` of the norm of all leaves.
    Where that is not enough, ``again`` computes the sides anew. How far they are from linear tells how they round on
    the way, in a coarser dtype or because large terms cancel. Where a large entry swallows small ones, as in saturated
    softmaxes, it does so at each scale, and ``apart`` tells.
    """
    times = _disagreement(ours, expected, precision, [0.0] * len(expected))
    if times > 1 and again:
        sides = [_rounding(product(), found, FACTOR) for product, found in zip(again, (ours, expected), strict=True)]
        noise = [sum(entries) for entries in zip(*sides, strict=True)]
        times = _disagreement(ours, expected, precision, noise)
        for sums in apart() if times > 1 and apart is not None else ():
            noise = [max(entries) for entries in zip(noise, _rounding(sums, expected), strict=True)]
            times = _disagreement(ours, expected, precision, noise)
            if times <= 1:
                break
    return times


def halves(number: int) -> Iterator[Tensor]:
    """Masks that cut the entries of a vector in two parts; each two entries are apart by one of them."""
    positions = torch.arange(number, device="cpu")
    for bit in range(max(number - 1, 0).bit_length()):
        yield (positions >> bit & 1).bool()


def _rounding(products: Sequence[Tensor], found: Sequence[Tensor], factor: float = 1.0) -> list[float]:
    """By leaf, how far products with vectors times a factor are from that many products."""
    return [float(_finite(leaf.detach() / factor - once).norm()) for leaf, once in zip(products, found, strict=True)]


def _disagreement(
    ours: Sequence[Tensor], expected: Sequence[Tensor], precision: torch.dtype, rounding: Sequence[float]
) -> float:
    norms = [float(_finite(leaf).norm()) for leaf in expected]
    total = sum(norm**2 for norm in norms) ** 0.5
    worst = 0.0
    for leaf, right, norm, noise in zip(ours, expected, norms, rounding, strict=True):
        if not torch.equal(torch.isfinite(leaf), torch.isfinite(right)):
            return float("inf")
        allowed = _ROUNDING.get(precision, _DEFAULT_ROUNDING) * norm + 100 * torch.finfo(precision).eps * total
        allowed += 100 * noise
        difference = float((_finite(leaf) - _finite(right)).norm())
        if difference > 0:
            worst = max(worst, difference / allowed if allowed > 0 else float("inf"))
    return worst


def _finite(tensor: Tensor) -> Tensor:
    return torch.where(torch.isfinite(tensor), tensor, 0)
