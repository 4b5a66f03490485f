"""Whole matrices of kept points: rows of products written into the matrix, and of a symmetric one only half of them."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hesse._base.clock import Clock
from hesse._base.errors import MemoryBudgetError
from hesse._base.memory import readable
from hesse._base.progress import Bar
from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._linearize.chunks import Batching
from hesse._linearize.unit_vectors import UnitVectors

# A group of leaves has at least so many elements, so that its rows can go through the graph together.
_GROUP = 64
# So many rows and columns are mirrored at a time: of a larger piece, what is read would leave the caches before it is
# used.
_TILE = 256
# A strip is timed so often; the wrong order may take a quarter longer.
_LOOKS = 4
# In seconds; a bar for less would only flicker.
_LONG = 2.0


class Part(NamedTuple):
    """Which leaves of the vector are given and which of the product are wanted, by position; None for all."""

    sources: tuple[int, ...] | None = None
    targets: tuple[int, ...] | None = None

    def of_sources(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        """The given ones among all."""
        return positions if self.sources is None else tuple([positions[i] for i in self.sources])

    def of_targets(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        """The wanted ones among all."""
        return positions if self.targets is None else tuple([positions[i] for i in self.targets])


EVERYTHING = Part()


class Replay(Protocol):
    """A product of leaves; ``batched``: one vector a row."""

    def __call__(self, entries: list[Tensor], batched: bool, part: Part = EVERYTHING) -> list[Tensor]: ...


NewBatching = Callable[[int], Batching]
"""What decides how many vectors go at once, within so many bytes."""


def rows(
    replay: Replay, source: Space, target: Space, dtype: torch.dtype, memory: int, new_batching: NewBatching
) -> Tensor:
    """The products of all unit vectors, one a row: (n, m)."""
    matrix = empty((source.size, target.size), dtype, source.device, memory)
    batching = new_batching(memory)
    everything = tuple(range(len(target.leaves)))
    with contextlib.closing(_Rows(source.size)) as made:
        for sources in _groups(source.lengths):
            _Strip(replay, source, target, Part(sources, everything)).fill(matrix, batching, made)
    return matrix


def symmetric(replay: Replay, space: Space, dtype: torch.dtype, memory: int, new_batching: NewBatching) -> Tensor:
    r"""The matrix of a symmetric map: each pair of groups of leaves is computed once, and mirrored.

    With a group are asked for those that come after it in some order, and nothing is pulled back to the others. The
    order that costs least is found by one product each.
    """
    groups = _groups(space.lengths)
    order = _cheapest_order(replay, space, groups) if len(groups) > 1 else groups
    matrix = empty((space.size, space.size), dtype, space.device, memory)
    with contextlib.closing(_Rows(space.size)) as made:
        for strip in _strips(replay, space, order):
            strip.fill(matrix, new_batching(memory), made)
            strip.mirror(matrix)
    return matrix


class _Strip:
    """Some rows of the matrix: the products of the unit vectors of some consecutive leaves, for some leaves."""

    def __init__(self, replay: Replay, source: Space, target: Space, part: Part) -> None:
        assert part.sources is not None
        assert part.targets is not None
        self._replay, self.part = replay, part
        self._source, self._target = _restricted(source, part.sources), _restricted(target, part.targets)
        self.number = self._source.size
        spans = _spans(source.lengths, part.sources)
        self._rows = slice(spans[0].start, spans[-1].stop)
        # Of all wanted leaves, with those that lie side by side as one.
        self._columns = _joined(_spans(target.lengths, part.targets))

    def multiply(self, vectors: Tensor) -> Tensor:
        """The products of one vector (n,) or of one a row."""
        batch = vectors.dim() - 1
        return self._target.join(self._replay(self._source.split(vectors), batch == 1, self.part), batch)

    def fill(self, matrix: Tensor, batching: Batching, made: _Rows) -> None:
        """Write all rows into the matrix."""
        vectors = UnitVectors(self.number, self._source.dtype, self._source.device)
        into = _Columns(matrix, self._rows, self._columns, made)
        batching.multiply(self.multiply, vectors, self._target.lengths, into=into)

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

    def seconds(self) -> float:
        """For one product, the least of a few."""
        vector = torch.ones(self.number, dtype=self._source.dtype, device=self._source.device)
        return min(self._once(vector) for _ in range(_LOOKS))

    def _once(self, vector: Tensor) -> float:
        clock = Clock()
        self.multiply(vector)
        return clock.lap(vector.device)


class _Columns:
    """Some rows and columns of the matrix, to be written row by row."""

    def __init__(self, matrix: Tensor, rows: slice, columns: Sequence[slice], made: _Rows) -> None:
        self.nbytes = matrix.nbytes
        self.parts = [matrix[rows, span] for span in columns]
        self._lengths = [span.stop - span.start for span in columns]
        self._made = made

    def write(self, start: int, products: Tensor) -> None:
        """The products of the rows from ``start`` on."""
        for part, columns in zip(self.parts, products.split_with_sizes(self._lengths, dim=-1), strict=True):
            part[start : start + len(products)] = columns
        self._made.add(len(products))


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


def _strips(replay: Replay, space: Space, order: Sequence[tuple[int, ...]]) -> list[_Strip]:
    """The rows of each group, for itself and those after it."""
    return [
        _Strip(replay, space, space, Part(sources, tuple(sorted([i for group in order[place:] for i in group]))))
        for place, sources in enumerate(order)
    ]


def _cheapest_order(replay: Replay, space: Space, groups: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """From first to last or the other way; as they come, or small groups, which have few rows, before large ones."""
    orders = [groups, groups[::-1]]
    orders += [sorted(order, key=lambda group: sum(space.lengths[i] for i in group)) for order in orders]
    each: dict[Part, float] = {}

    def seconds_of(strip: _Strip) -> float:
        if strip.part not in each:
            each[strip.part] = strip.seconds()
        return strip.number * each[strip.part]

    seconds = [sum(map(seconds_of, _strips(replay, space, order))) for order in orders]
    return orders[seconds.index(min(seconds))]


def _restricted(space: Space, positions: tuple[int, ...]) -> Space:
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


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, memory: int) -> Tensor:
    """Room for a matrix, or for several, or one sentence where they do not fit."""
    size = math.prod(shape) * dtype.itemsize
    if size > memory:
        raise MemoryBudgetError(
            f"The matrix of shape {shape} takes {readable(size)} but {readable(memory)} may be taken. Give more"
            " memory=, or multiply some columns at a time."
        )
    return torch.empty(shape, dtype=dtype, device=device)


class _Rows:
    """Counts rows, and shows a bar once it has taken long."""

    def __init__(self, total: int) -> None:
        self._total, self._made = total, 0
        self._began = time.monotonic()
        self._bar: Bar | None = None

    def add(self, count: int) -> None:
        """So many more are made."""
        self._made += count
        if self._bar is None and time.monotonic() - self._began > _LONG:
            self._bar = Bar("rows of the matrix", self._total)
            self._bar.__enter__()
        if self._bar is not None:
            self._bar.update(self._made, "")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
