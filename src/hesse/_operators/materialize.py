"""Whole matrices of kept points: products written as rows of a matrix, and of a symmetric one only half of them."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from hesse._base.errors import MemoryBudgetError
from hesse._base.memory import readable
from hesse._base.progress import Bar, is_watched
from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._linearize.unit_vectors import UnitVectors
from hesse._operators.terms import Part

# A group of leaves has at least so many elements, so that its rows can go through the graph together.
_GROUP = 64
# Rows and columns that are mirrored at a time: a larger piece would leave the caches between its reading and its use.
_TILE = 256
# In seconds; a bar for less would only flicker.
_LONG = 2.0


class Into(Protocol):
    """Where products are added up, with ``nbytes`` of the memory that may be taken."""

    nbytes: int

    def add(self, start: int, products: Tensor, weight: float, *, first: bool) -> None:
        """Add the weighted products of the rows from ``start`` on; of the ``first`` term nothing is there yet."""

    def divided(self, divisor: float) -> Tensor:
        """Divide by what the weights add up to; the whole matrix."""


MultiplyRows = Callable[..., Tensor]
"""A point's products with one vector a row, added into a matrix: ``Point.multiply_rows``."""


class Matrix:
    """A matrix (count, n) of its own, one product a row."""

    def __init__(self, count: int, target: Space) -> None:
        self.nbytes = count * target.size * target.dtype.itemsize
        self._count, self._target = count, target
        self._rows: Tensor | None = None
        self._is_borrowed = False

    def add(self, start: int, products: Tensor, weight: float, *, first: bool) -> None:
        """See :class:`Into`; products that are the whole answer are taken as they are."""
        if first and len(products) == self._count and weight == 1:
            self._rows, self._is_borrowed = products, True
            return
        if self._rows is None:
            self._rows = products.new_empty(self._count, self._target.size)
        elif self._is_borrowed:
            self._rows, self._is_borrowed = self._rows.clone(), False
        _add(self._rows[start : start + len(products)], products, weight, first=first)

    def divided(self, divisor: float) -> Tensor:
        """See :class:`Into`."""
        if self._rows is None:
            return torch.zeros(self._count, self._target.size, dtype=self._target.dtype, device=self._target.device)
        return self._rows if divisor == 1 else self._rows / divisor


def _add(part: Tensor, products: Tensor, weight: float, *, first: bool) -> None:
    if not first:
        part.add_(products, alpha=weight)
    elif weight == 1:
        part.copy_(products)
    else:
        torch.mul(products, weight, out=part)


def rows(
    multiply_rows: MultiplyRows,
    part: Part,
    source: Space,
    target: Space,
    dtype: torch.dtype,
    left: int | None,
    *,
    transposed: bool,
) -> Tensor:
    """The products of all unit vectors, one a row: (n, m)."""
    matrix = empty((source.size, target.size), dtype, source.device, left)
    with _Made(source.size) as made:
        for group in _groups(source.lengths):
            everything = tuple(range(len(target.leaves)))
            _Strip(multiply_rows, part, source, target, group, everything).fill(matrix, left, made, transposed)
    return matrix


def symmetric(multiply_rows: MultiplyRows, part: Part, space: Space, dtype: torch.dtype, left: int | None) -> Tensor:
    r"""The matrix of a symmetric map: each pair of groups of leaves is computed once, and mirrored.

    The products with a group's unit vectors are wanted for that group and the later ones only. Small groups, which
    have few rows, come first.
    """
    order = _in_order(space.lengths)
    matrix = empty((space.size, space.size), dtype, space.device, left)
    with _Made(space.size) as made:
        for number, group in enumerate(order):
            wanted = tuple(sorted(itertools.chain(*order[number:])))
            strip = _Strip(multiply_rows, part, space, space, group, wanted)
            strip.fill(matrix, left, made)
            strip.mirror(matrix)
    return matrix


class _Strip:
    """Some rows of the matrix: the products of the unit vectors of some consecutive leaves, for some leaves."""

    def __init__(
        self,
        multiply_rows: MultiplyRows,
        part: Part,
        source: Space,
        target: Space,
        given: tuple[int, ...],
        wanted: tuple[int, ...],
    ) -> None:
        self._multiply_rows = multiply_rows
        self._part = Part(tuple([part.sources[i] for i in given]), tuple([part.targets[i] for i in wanted]))
        self._source, self._target = restricted(source, given), restricted(target, wanted)
        spans = _spans(source.lengths, given)
        self._rows = slice(spans[0].start, spans[-1].stop)
        # All wanted leaves, those side by side as one.
        self._columns = _joined(_spans(target.lengths, wanted))

    def fill(self, matrix: Tensor, left: int | None, made: _Made, transposed: bool = False) -> None:
        """Write all rows into the matrix."""
        vectors = UnitVectors(self._source.size, self._source.dtype, self._source.device)
        into = _Columns(matrix, self._rows, self._columns, made)
        self._multiply_rows(
            vectors, self._part, self._source, self._target, transposed=transposed, into=into, left=left
        )

    def mirror(self, matrix: Tensor) -> None:
        """Copy the rows into the columns that are their mirror image."""
        for span in self._columns:
            for start, stop in (
                (span.start, min(span.stop, self._rows.start)),
                (max(span.start, self._rows.stop), span.stop),
            ):
                for there in _tiles(slice(start, stop)):
                    for here in _tiles(self._rows):
                        matrix[there, here] = matrix[here, there].mT


class _Columns:
    """Some rows and columns of the matrix, to be written row by row."""

    def __init__(self, matrix: Tensor, rows: slice, columns: Sequence[slice], made: _Made) -> None:
        self.nbytes = matrix.nbytes
        self._parts = [matrix[rows, span] for span in columns]
        self._lengths = [span.stop - span.start for span in columns]
        self._matrix, self._made = matrix, made

    def add(self, start: int, products: Tensor, weight: float, *, first: bool) -> None:
        """See :class:`Into`."""
        stop = start + len(products)
        for part, columns in zip(self._parts, products.split_with_sizes(self._lengths, dim=-1), strict=True):
            _add(part[start:stop], columns, weight, first=first)
        if first:
            self._made.add(len(products))

    def divided(self, divisor: float) -> Tensor:
        """See :class:`Into`."""
        if divisor != 1:
            for part in self._parts:
                part.div_(divisor)
        return self._matrix


def _tiles(span: slice) -> list[slice]:
    return [slice(start, min(start + _TILE, span.stop)) for start in range(span.start, span.stop, _TILE)]


def _groups(lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Consecutive leaves that are multiplied together, since one alone has too few elements."""
    groups: list[list[int]] = [[]]
    for position, _ in enumerate(lengths):
        if sum(lengths[i] for i in groups[-1]) >= _GROUP:
            groups.append([])
        groups[-1].append(position)
    return [tuple(group) for group in groups]


def _in_order(lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """The groups, small ones first."""
    return sorted(_groups(lengths), key=lambda group: sum(lengths[i] for i in group))


def restricted(space: Space, positions: tuple[int, ...]) -> Space:
    """The vectors of some leaves."""
    spec = Spec(list, tuple([space.spec.paths[position] for position in positions]), length=None)
    return Space([space.leaves[position] for position in positions], spec, space.name)


def _spans(lengths: Sequence[int], positions: Sequence[int]) -> list[slice]:
    """Where leaves lie in a flat vector."""
    starts = [0, *itertools.accumulate(lengths)]
    return [slice(starts[position], starts[position + 1]) for position in positions]


def _joined(spans: Sequence[slice]) -> list[slice]:
    """Spans in order, with those that touch as one."""
    joined: list[slice] = []
    for span in spans:
        if joined and joined[-1].stop == span.start:
            joined[-1] = slice(joined[-1].start, span.stop)
        else:
            joined.append(span)
    return joined


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, memory: int | None) -> Tensor:
    """Room for a matrix, or for several, or one sentence where they do not fit."""
    size = math.prod(shape) * dtype.itemsize
    if memory is not None and size > memory:
        raise MemoryBudgetError(
            f"The matrix of shape {shape} takes {readable(size)} but {readable(memory)} may be taken. Give more"
            " memory=, or multiply some columns at a time."
        )
    return torch.empty(shape, dtype=dtype, device=device)


class _Made(contextlib.ExitStack):
    """Counts rows, and shows a bar once it has taken long."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total, self._made = total, 0
        self._began = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def add(self, count: int) -> None:
        """So many more are made."""
        self._made += count
        if self._bar is None and time.monotonic() - self._began > _LONG and is_watched():
            self._bar = Bar("rows of the matrix", self._total)
            self.enter_context(self._bar)
        if self._bar is not None:
            self._bar.update(self._made, "")
