"""Random probe vectors, keyed by (seed, column, index of the element) alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks, counter_numbers
from hesse._ranks.shards import Ranges

Rng = int | np.random.Generator | torch.Generator | None


def generator(entry: str, rng: Rng) -> np.random.Generator:
    """Where the random numbers of an entry come from; of a generator of PyTorch's, it draws the seed.

    Raises:
        TypeError, ValueError: ``rng`` is neither a seed nor a generator.
    """
    if isinstance(rng, torch.Generator):
        return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=rng, device=rng.device)))
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng given to {entry} should be a seed, which is a whole number of at least 0, a generator of NumPy's or"
            f" PyTorch's, or None, but is {checks.shown(rng)}."
        ) from error


def randn(
    n: int, k: int, rng: Rng, *, dtype: torch.dtype, device: torch.device, ranges: Ranges | None = None
) -> Tensor:
    """Standard normal vectors of shape (n, k), or those of their entries that are in ``ranges``."""
    return _columns(counter_numbers.normals, ((0, n),) if ranges is None else ranges, k, rng, dtype, device)


def signs(
    n: int, k: int, rng: Rng, *, dtype: torch.dtype, device: torch.device, ranges: Ranges | None = None
) -> Tensor:
    """Vectors of independent signs, +1 or −1 with equal chance (Rademacher); shapes and ``ranges`` as of ``randn``."""
    return _columns(counter_numbers.signs, ((0, n),) if ranges is None else ranges, k, rng, dtype, device)


def _columns(
    fill: Callable[[Tensor, int, int], None],
    ranges: Ranges,
    k: int,
    rng: Rng,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    # An int is a seed; a generator gives another seed at each call; None takes one from the system.
    seed = int(generator("a random vector", rng).integers(2**63))
    lengths = [count for _, count in ranges]
    rows = torch.empty(k, sum(lengths), dtype=dtype, device=device)
    for (first, _), part in zip(ranges, rows.split_with_sizes(lengths, dim=1), strict=True):
        fill(part, seed, first)
    return rows.mT
