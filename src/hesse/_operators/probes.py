"""Random probe vectors, keyed by (seed, column, index of the element) alone.

Philox is a counter-based generator: the bits for an element do not depend on how many are drawn, nor in what
order or on which rank, so a sharded vector and a whole one hold the same numbers. (Salmon, Moraes, Dror and
Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; NumPy's implementation.)
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts load when they are first used: all of them take longer than the rest of hesse
import torch
from torch import Tensor

from hesse._base import checks

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


def randn(n: int, k: int, rng: Rng, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal vectors of shape (n, k): the inverse distribution function of uniform numbers."""
    bits = _bits(n, k, rng)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return _columns(scipy.special.ndtri(uniform), dtype, device)


def signs(n: int, k: int, rng: Rng, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Vectors of independent signs, +1 or −1 with equal chance (Rademacher), of shape (n, k)."""
    bits = _bits(n, k, rng)
    return _columns(1.0 - 2.0 * (bits >> np.uint64(63)).astype(np.float64), dtype, device)


def _bits(n: int, k: int, rng: Rng) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """64 random bits for each element, one vector a row."""
    # An int is a seed; a generator gives another seed at each call; None takes one from the system.
    seed = int(generator("a random vector", rng).integers(2**63))
    rows = [np.random.Philox(key=[seed, column]).random_raw(n) for column in range(k)]
    return np.stack(rows) if rows else np.empty((0, n), dtype=np.uint64)


def _columns(
    rows: np.ndarray[tuple[int, int], np.dtype[np.float64]], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.from_numpy(rows).to(device=device, dtype=dtype).mT
