"""Inner products of long vectors in float32, right to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base.devices import widest
from hesse._ranks.group import Ranks

# So many entries are added up in float32 at a time. A product of matrices adds up all of them one after the other: of
# a million entries the squared norm comes out wrong by 6e-5, of ten millions by 2e-3; in pieces by 1e-7, in less time.
PIECE = 8192


def inner_products(U: Tensor, V: Tensor) -> Tensor:
    """Uᵀ·V of columns (n, k) and (n, l), as (k, l): pieces of them in their dtype, and the sum of these in float64
    where the device has it.

    Example:
        >>> import torch
        >>> inner_products(torch.ones(3, 1), torch.ones(3, 2))
        tensor([[3., 3.]])
    """
    return _added_up(U, V).to(U.dtype)


def _added_up(U: Tensor, V: Tensor) -> Tensor:
    """Uᵀ·V, of long columns in float64 where the device has it."""
    n = U.shape[0]
    number = n // PIECE
    whole = number * PIECE
    if n < 2 * PIECE or U.dtype == torch.float64:
        return U.mT @ V
    left = U[:whole].mT.reshape(U.shape[1], number, PIECE).transpose(0, 1)
    right = V[:whole].mT.reshape(V.shape[1], number, PIECE).permute(1, 2, 0)
    total = torch.bmm(left, right).sum(0, dtype=widest(U.device))
    return total + U[whole:].mT @ V[whole:]


def shared_inner_products(ranks: Ranks, rows: slice, U: Tensor, V: Tensor) -> Tensor:
    """Uᵀ·V of columns of which each rank adds up some rows, so that all have the same digits.

    What each computed alone could differ in the last bit, and ranks would decide differently.
    """
    return ranks.sum(_added_up(U[rows], V[rows]).to(widest(U.device)), "inner products").to(U.dtype)
