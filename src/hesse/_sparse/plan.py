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
from hesse._sparse.compiled import compiled, in_threads
from hesse._sparse.given import Pattern

Array = np.ndarray[Any, Any]

GROUP = 4
"""So many products are read together: each part of the values is written while it is in the cache."""

# Entries of a block in half a megabyte at most.
_BLOCK = 2**14

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
        num_blocks: of consecutive rows, whose entries are read together.
        spans: where the parts of ``entries`` begin.
        entries: numbers of the stored entries, by group of colors, block and color.
        places: where each of these entries lies in its product.
        vectors: random ones, one a row, by which a matrix is compared with the operator.
    """

    given: Any
    shape: tuple[int, int]
    transposed: bool
    colors: Tensor
    starts: Tensor
    columns: Tensor
    num_colors: int
    num_blocks: int
    spans: Array
    entries: Tensor
    places: Tensor
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

    def read(self, products: Sequence[Tensor], start: int, values: Tensor) -> None:
        """Write the entries that lie in the products from number ``start`` on, a multiple of GROUP, into ``values``."""
        if values.device.type != "cpu":
            # There is one block, so a part is a color.
            for number, product in enumerate(products, start):
                span = slice(*self.spans[number : number + 2].tolist())
                values.index_copy_(0, self.entries[span], product.index_select(0, self.places[span]))
            return
        entries, places, filled = [tensor.numpy() for tensor in (self.entries, self.places, values)]
        for first in range(0, len(products), GROUP):
            group = [product.detach().contiguous().numpy() for product in products[first : first + GROUP]]
            # The last group may be smaller: nothing is read from a product beyond it.
            group += [group[0]] * (GROUP - len(group))
            part = (start + first) * self.num_blocks
            steps = int(self.spans[part + GROUP * self.num_blocks] - self.spans[part])
            in_threads(
                kernels.read_products,
                *(self.num_blocks, steps, part, self.spans, entries, places, tuple(group), filled),
            )

    def matrix(self, values: Tensor) -> Tensor:
        """The sparse matrix of the stored entries' values."""
        return compressed_rows(self.starts, self.columns, values, self.shape)


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
    # A part has many entries, so that its bounds are few beside them.
    num_blocks = max(1, pattern.nnz // max(_BLOCK, 64 * num_colors)) if device.type == "cpu" else 1
    spans, entries, places = compiled(kernels.sorted_by_block)(
        *(pattern.indptr, coloring.source_rows, numbers[coloring.source_colors]),
        *(-(-num_colors // GROUP) * GROUP * num_blocks, GROUP, num_blocks, -(-pattern.shape[0] // num_blocks)),
    )

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
        num_blocks=num_blocks,
        spans=spans,
        # PyTorch writes to indices of 64 bits only.
        entries=tensor(entries if device.type == "cpu" else entries.astype(np.int64)),
        places=tensor(places),
        # No entry is near zero, and the draws advance no generator of the user's.
        vectors=0.5 + torch.rand(_COMPARED, size, dtype=dtype, device=device, generator=fixed_generator(device)),
    )


def _require_room(pattern: Pattern, dtype: torch.dtype, room: int | None) -> None:
    index = pattern.indices.dtype.itemsize
    # Values, columns, entries and places; starts; colors and random vectors.
    needed = pattern.nnz * (dtype.itemsize + 2 * index + 8) + pattern.shape[0] * index
    needed += pattern.shape[1] * (4 + _COMPARED * dtype.itemsize)
    if room is not None and needed > room:
        raise MemoryBudgetError(
            f"The sparse matrix of {pattern.nnz} entries takes {readable(needed)} with its plan but {readable(room)}"
            " may be taken. Give more memory=."
        )
