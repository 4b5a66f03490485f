"""Sets of positions, many at a time: what the entries of a tensor depend on.

A table is a boolean CSR matrix with one set in each row; row 0 is the empty set. A tensor has the number of a row for
each of its entries. So moving entries moves numbers, and entries that depend on the same positions share a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from hesse._base import memory
from hesse._base.errors import MemoryBudgetError

Table = Any
"""A ``csr_array`` of booleans, sorted and without duplicates."""

_BYTES_PER_ENTRY = 16
"""What an entry of a table takes while two tables are united: indices and booleans of both, and of the union."""


class Dependence(NamedTuple):
    """For each entry of a tensor, the row of ``table`` that holds the positions that the entry depends on."""

    rows: Tensor
    table: Table

    def reshape(self, *shape: int) -> Dependence:
        return Dependence(self.rows.reshape(shape), self.table)

    def expand(self, shape: Sequence[int]) -> Dependence:
        return Dependence(self.rows.expand(tuple(shape)), self.table)


class Sets:
    """Makes unions of sets within a budget of memory."""

    def __init__(self, budget: int) -> None:
        self._budget = budget

    def identity(self, size: int) -> Table:
        """The empty set, then each position alone: position k is row k + 1."""
        return _table(np.arange(size), np.concatenate(([0], np.arange(size + 1))), size)

    def union(self, parts: Sequence[Dependence], shape: Sequence[int]) -> Dependence | None:
        """The sets of tensors that are broadcast to a shape, united entry by entry; None if there are no tensors."""
        if not parts:
            return None
        united, *others = [part.expand(shape) for part in parts]
        for other in others:
            united = self._pairwise(united, other)
        return united

    def _pairwise(self, first: Dependence, second: Dependence) -> Dependence:
        if first.table is second.table and torch.equal(first.rows, second.rows):
            return first
        a, b = numbers(first.rows), numbers(second.rows)
        for part, other in ((first, b), (second, a)):
            if not other.any():
                return part
        pairs = a * np.int64(second.table.shape[0]) + b
        inverse: Any = None
        # Fewer rows than entries: pairs repeat, and each is united once.
        if pairs.size > first.table.shape[0] + second.table.shape[0]:
            pairs, inverse = np.unique(pairs, return_inverse=True)
        a, b = np.divmod(pairs, second.table.shape[0])
        self.require(int(_lengths(first.table)[a].sum() + _lengths(second.table)[b].sum()))
        left, right = first.table[a], second.table[b]
        both = left + right
        for part, own in ((first, left), (second, right)):
            # The other's sets are subsets: no new table, and later unions see the same rows.
            if own.nnz == both.nnz:
                return part
        rows = np.arange(1, pairs.size + 1) if inverse is None else inverse + 1
        return Dependence(_tensor(rows, first.rows.shape, first.rows.device), _below_empty(both))

    def collect(self, part: Dependence, targets: Any, sources: Any, shape: Sequence[int]) -> Dependence:
        """A tensor of ``shape`` whose entry ``targets[k]`` depends on what entry ``sources[k]`` of ``part`` depends on.

        ``sources=None`` stands for each entry in turn.
        """
        if sources is not None:
            self.require(len(sources))
        rows = numbers(part.rows)
        rows = rows if sources is None else rows[sources]
        is_some = rows != 0
        if not is_some.all():
            rows, targets = rows[is_some], targets[is_some]
        size = math.prod(shape)
        incidence = csr_array((np.ones(rows.size, bool), (targets, rows)), shape=(size, part.table.shape[0]))
        incidence.sum_duplicates()
        counts = _lengths(incidence)
        if counts.max(initial=0) <= 1:
            single = np.zeros(size, np.int64)
            single[counts == 1] = incidence.indices
            return Dependence(_tensor(single, shape, part.rows.device), part.table)
        self.require(int(_lengths(part.table)[incidence.indices].sum()))
        united = incidence @ part.table
        united.sort_indices()
        numbered = np.where(counts, np.arange(1, size + 1), 0)
        return Dependence(_tensor(numbered, shape, part.rows.device), _below_empty(united))

    def reduce(self, part: Dependence, dims: Sequence[int]) -> Dependence:
        """The union along dimensions, which stay with length 1."""
        shape = tuple(part.rows.shape)
        kept = [1 if d in dims else length for d, length in enumerate(shape)]
        targets = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), shape).reshape(-1)
        return self.collect(part, targets, None, kept)

    def along(self, part: Dependence, dim: int, length: int, targets: Any, sources: Any) -> Dependence:
        """Along one dimension, which gets this length, entry ``targets[k]`` depends on what ``sources[k]`` does."""
        shape = list(part.rows.shape)
        before, after = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
        outer, inner = np.arange(before)[:, None, None], np.arange(after)
        to = (outer * length + np.asarray(targets)[:, None]) * after + inner
        of = (outer * shape[dim] + np.asarray(sources)[:, None]) * after + inner
        shape[dim] = length
        return self.collect(part, to.reshape(-1), of.reshape(-1), shape)

    def whole(self, parts: Sequence[Dependence]) -> Dependence | None:
        """The union over all entries of all tensors, as one entry."""
        totals = [self.reduce(part, range(part.rows.dim())).reshape() for part in parts]
        return self.union(totals, ())

    def join(self, parts: Sequence[Dependence]) -> tuple[list[Tensor], Table]:
        """Several tensors by one table."""
        first = parts[0].table
        if all(part.table is first for part in parts):
            return [part.rows for part in parts], first
        self.require(sum(part.table.nnz for part in parts))
        table = vstack([part.table for part in parts], format="csr")
        table.has_canonical_format = True
        offsets = np.cumsum([0, *[part.table.shape[0] for part in parts[:-1]]])
        # The empty set stays row 0.
        return [
            torch.where(part.rows == 0, 0, part.rows + int(offset)) for part, offset in zip(parts, offsets, strict=True)
        ], table

    def matrix(self, part: Dependence) -> Any:
        """The sets of all entries in C order, as the rows of a matrix."""
        rows = numbers(part.rows)
        self.require(int(_lengths(part.table)[rows].sum()))
        return part.table[rows]

    def require(self, entries: int) -> None:
        """Refuse a table, or a list of what an operator connects, that takes more than the budget."""
        if entries * _BYTES_PER_ENTRY > self._budget:
            raise MemoryBudgetError(
                f"The sparsity pattern has up to {entries:.3g} entries on the way, which take"
                f" {memory.readable(entries * _BYTES_PER_ENTRY)} of the {memory.readable(self._budget)} that memory="
                " allows. Products with the operator need no pattern."
            )


def numbers(rows: Tensor) -> Any:
    """Rows of a table as a flat array."""
    return rows.reshape(-1).cpu().numpy()


def _tensor(rows: Any, shape: Sequence[int], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int32)).to(device).reshape(tuple(shape))


def _lengths(table: Table) -> Any:
    return np.diff(table.indptr).astype(np.int64)


def _below_empty(sets: Any) -> Table:
    return _table(sets.indices, np.concatenate((sets.indptr[:1], sets.indptr)), sets.shape[1])


def _table(indices: Any, starts: Any, size: int) -> Table:
    made = csr_array((np.ones(len(indices), bool), indices, starts), shape=(len(starts) - 1, size))
    made.has_canonical_format = True
    return made
