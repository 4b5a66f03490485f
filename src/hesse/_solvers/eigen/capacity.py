"""How many vectors a search may hold at a time: as many as are asked for, or as memory allows."""

from __future__ import annotations

import bisect

import torch

from hesse._base import memory
from hesse._base.errors import MemoryBudgetError
from hesse._solvers.allowance import allowance
from hesse._solvers.eigen.basis import WIDTH, at_once, entries
from hesse._solvers.run import Products

# More vectors than that save few products, and their small matrices take long.
BASIS_VECTORS = 2000
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
    earlier: int | None = None,
) -> int:
    """The most vectors that a search for ``count`` eigenpairs by blocks may hold, each with its product.

    Args:
        products: the question's products.
        count: how many eigenpairs.
        block: how many vectors are multiplied at once.
        basis_size: how many the caller wants, or None.
        budget: the memory that the caller allows, or None.
        device: where the vectors are.
        earlier: how many a run held that a checkpoint kept, if there is one.

    Raises:
        ValueError: ``basis_size`` is too small for a restart.
        MemoryBudgetError: that many vectors, or the fewest that a restart leaves room for, take more than that.
        CheckpointError: what the earlier run held takes more than that.
    """
    n = products.size
    least = min(count + 2 * block, n)
    if basis_size is not None and basis_size < least:
        raise ValueError(f"basis_size given to eigsh should be at least {least} for k={count} but is {basis_size}.")
    length = products.longest
    vector = max(1, length * products.operator.dtype.itemsize)

    def size(held: int) -> int:
        """The bytes of a search that holds so many."""
        # Tails beside the answer and residuals, in pieces or by true products; or beside two pieces of residuals that
        # are compared; or a block, its products, what is left of them and a correction, with the start of a look.
        passing = max(block + count + max(2 * at_once(count), 3 * block), block + min(2 * WIDTH, held), 4 * block + 2)
        # A part of all vectors as it is rewritten, with two copies that LAPACK makes.
        rewriting = (1 + 3 * held * entries(length, held) / max(1, length)) * vector
        return int(2 * held * vector + max(passing * vector, rewriting)) + 8 * MATRICES * held**2

    # More than the products there may be can never come together.
    wanted = max(BASIS_VECTORS, 2 * count + 2 * block) if basis_size is None else basis_size
    wanted, least = (min(number, n, products.max_products) for number in (wanted, least))
    needed = least if basis_size is None else wanted
    allowed = allowance(products.operator, products.question, budget, device, size(needed))
    room = bisect.bisect_right(range(wanted + 1), allowed, key=size) - 1
    if room < needed:
        raise MemoryBudgetError(
            f"eigsh needs {memory.readable(size(needed))} for a basis of {needed} vectors with their products and the"
            f" answer, but memory allows {memory.readable(allowed)} on {device}. Raise memory, ask for fewer"
            " eigenvalues, or hold the basis elsewhere by basis_device."
        )
    if earlier is None:
        return room
    products.refuse_unless(
        size(earlier) <= allowed,
        f"was written by a search that takes {memory.readable(size(earlier))}, where memory allows"
        f" {memory.readable(allowed)}",
    )
    return earlier
