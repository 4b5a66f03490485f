"""``SparsePlan``: the vectors whose products hold a sparse matrix, and where each entry lies in the products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._base.compressed_rows import compressed_rows
from hesse._base.errors import MemoryBudgetError
from hesse._base.fixed_draws import fixed_generator
from hesse._base.memory import readable
from hesse._sparse import kernels
from hesse._sparse.coloring import column_coloring, symmetric_coloring
from hesse._sparse.compiled import in_threads
from hesse._sparse.given import Pattern

Array = np.ndarray[Any, Any]

# So many random products compare a matrix with its operator.
_COMPARED = 2


@dataclasses.dataclass(frozen=True)
class SparsePlan:
    """How a sparse matrix is read from products, at one point and all those with its pattern.

    Attributes:
        given: what the user gave as a pattern; None for one that was found.
        shape: (m, n) of the matrix.
        transposed: whether the products are with the transpose.
        colors: the number of each column's product (of each row's, where ``transposed``), or -1 where none is needed.
        starts, columns: the matrix in compressed rows.
        num_colors: how many products the matrix takes.
        sources: where each stored entry lies in all products, one after the other.
        vectors: random ones, one a row, by which a matrix is compared with the operator.
    """

    given: Any
    shape: tuple[int, int]
    transposed: bool
    colors: Tensor
    starts: Tensor
    columns: Tensor
    num_colors: int
    sources: Tensor
    vectors: Tensor

    @property
    def num_products(self) -> int:
        """How many products the matrix and its comparison take."""
        return self.num_colors + len(self.vectors)

    def seeds(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The vectors to multiply, one a row: each the sum of the unit vectors of its color."""
        seeds = torch.empty(stop - start, len(self.colors), dtype=dtype, device=self.colors.device)
        for number, seed in enumerate(seeds, start):
            # Into the float at once: a third of the time that a cast takes.
            torch.eq(self.colors, number, out=seed)
        return seeds

    @property
    def length(self) -> int:
        """Of a product."""
        return self.shape[1] if self.transposed else self.shape[0]

    def read(self, products: Tensor, start: int, values: Tensor, expected: Sequence[Tensor], allowed: float) -> bool:
        """Write the entries that lie in the products with the colors from ``start`` on, concatenated, into ``values``.

        Returns:
            Whether the matrix times the random vectors is known to be what is ``expected``: each row up to ``allowed``
            times the sum of its absolute entries.
        """
        first = start * self.length
        if values.device.type != "cpu":
            gather(self.sources, first, products, values)
            return False
        arrays = [tensor.numpy() for tensor in (self.starts, self.columns, self.sources)]
        vectors, right = [tuple([one.detach().contiguous().numpy() for one in two]) for two in (self.vectors, expected)]
        parts = in_threads(
            *(kernels.read_rows, self.shape[0], len(values)),
            *(*arrays, first, products.numpy(), values.numpy(), vectors, right, allowed),
        )
        return all(parts)

    def matrix(self, values: Tensor) -> Tensor:
        """The sparse matrix of the stored entries' values."""
        return compressed_rows(self.starts, self.columns, values, self.shape)


def gather(sources: Tensor, first: int, products: Tensor, values: Tensor) -> None:
    """Write the entries that lie in the products, of which ``first`` is the first number, into ``values``."""
    local = sources - first
    is_here = (local >= 0) & (local < len(products))
    # With no branch on values, so that nothing waits for an accelerator.
    values.copy_(torch.where(is_here, products[local.clamp(0, len(products) - 1)], values))


def plan(
    pattern: Pattern, given: Any, *, symmetric: bool, dtype: torch.dtype, device: torch.device, room: int | None
) -> SparsePlan:
    """Color a pattern, and note where each entry lies.

    Raises:
        MemoryBudgetError: the sparse matrix would take more than ``room``.
        ImportError: numba is not installed.
    """
    _require_room(pattern, dtype, room)
    coloring = (symmetric_coloring if symmetric else column_coloring)(pattern)
    # No product is needed of a color that holds no entry.
    needed = np.bincount(coloring.source_colors, minlength=int(coloring.colors.max(initial=-1)) + 1) > 0
    numbers = np.where(needed, np.cumsum(needed) - 1, -1).astype(np.int32)
    num_colors = int(needed.sum())
    length = int(pattern.shape[1 if coloring.transposed else 0])
    # PyTorch gathers by indices of 64 bits only; half as many take the loop on a CPU a fifth less.
    is_narrow = device.type == "cpu" and num_colors * length < 2**31
    sources: Array = numbers[coloring.source_colors].astype(np.int32 if is_narrow else np.int64)
    sources *= length
    sources += coloring.source_rows

    size = int(pattern.shape[1])

    def tensor(array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return SparsePlan(
        given=given,
        shape=(int(pattern.shape[0]), size),
        transposed=coloring.transposed,
        colors=tensor(numbers[coloring.colors]),
        starts=tensor(pattern.indptr),
        columns=tensor(pattern.indices),
        num_colors=num_colors,
        sources=tensor(sources),
        # No entry is near zero or above LARGEST, and the draws advance no generator of the user's.
        vectors=0.5 + torch.rand(_COMPARED, size, dtype=dtype, device=device, generator=fixed_generator(device)),
    )


def _require_room(pattern: Pattern, dtype: torch.dtype, room: int | None) -> None:
    index = pattern.indices.dtype.itemsize
    # Values, columns and sources; starts; colors and random vectors.
    needed = pattern.nnz * (dtype.itemsize + index + 8) + pattern.shape[0] * index
    needed += pattern.shape[1] * (4 + _COMPARED * dtype.itemsize)
    if room is not None and needed > room:
        raise MemoryBudgetError(
            f"The sparse matrix of {pattern.nnz} entries takes {readable(needed)} with its plan but {readable(room)}"
            " may be taken. Give more memory=."
        )
