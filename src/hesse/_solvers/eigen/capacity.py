"""How many vectors a search may hold at a time: as many as are asked for, or as memory allows."""

from __future__ import annotations

import math

import torch

from hesse._base import memory
from hesse._base.errors import MemoryBudgetError
from hesse._solvers.run import Products

# What a basis and its products take where the caller says neither how many vectors nor how much memory.
BASIS_BYTES = 2**30
BASIS_VECTORS = 2000
# Vectors that come and go: eight while residuals are compared, fewer in the look for missing eigenvalues; and for each
# vector of a block itself, its product, what is left of that, and a correction of either.
PASSING = 8
PASSING_OF_BLOCK = 5
# Small matrices of float64 that an eigendecomposition has at a time.
MATRICES = 4


def capacity(
    products: Products,
    count: int,
    block: int,
    *,
    basis_size: int | None,
    budget: int | str | None,
    device: torch.device,
) -> int:
    """The most vectors that a search for ``count`` eigenpairs by blocks may hold, each with its product.

    Args:
        products: the question's products.
        count: how many eigenpairs.
        block: how many vectors are multiplied at once.
        basis_size: how many the caller wants, or None.
        budget: the memory that the caller allows, or None.
        device: where the vectors are.

    Raises:
        ValueError: ``basis_size`` is too small for a restart.
        MemoryBudgetError: that many vectors, or the fewest that a restart leaves room for, take more than that.
    """
    n = products.size
    least = min(count + 2 * block, n)
    if basis_size is not None and basis_size < least:
        raise ValueError(f"basis_size given to eigsh should be at least {least} for k={count} but is {basis_size}.")
    vector = max(1, n * products.operator.dtype.itemsize)
    wanted = basis_size
    if wanted is None:
        nominal = BASIS_VECTORS if budget is not None else min(BASIS_BYTES // (2 * vector), BASIS_VECTORS)
        wanted = max(nominal, 2 * count + 2 * block)
    # More than the products there may be can never come together.
    wanted, least = (min(number, n, products.max_products) for number in (wanted, least))
    allowed = products.least(memory.budget(budget, device), device, is_shared=budget is None)
    beside = (count + PASSING + PASSING_OF_BLOCK * block) * vector
    small = 8 * MATRICES
    # The largest r for which 2·r vectors and matrices of r columns fit.
    room = (math.isqrt(vector**2 + small * max(0, allowed - beside)) - vector) // small
    needed = least if basis_size is None else wanted
    if room < needed:
        size = memory.readable(needed * (2 * vector + small * needed) + beside)
        raise MemoryBudgetError(
            f"eigsh needs {size} for a basis of {needed} vectors with their products and the answer, but memory allows"
            f" {memory.readable(allowed)} on {device}. Raise memory, ask for fewer eigenvalues, or hold the basis"
            " elsewhere by basis_device."
        )
    return min(wanted, room)
