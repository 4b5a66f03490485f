"""Colors of the columns of a pattern: columns of one color are multiplied together, and each entry can be read off.

Greedy colorings depend on the order of the vertices and take milliseconds, so several orders are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy

from hesse._sparse import kernels
from hesse._sparse.compiled import compiled
from hesse._sparse.given import Pattern

Array = np.ndarray[Any, Any]


class Coloring(NamedTuple):
    """Which columns are multiplied together, and in which product each stored entry lies.

    Attributes:
        colors: of the columns; of the rows, where ``transposed``.
        source_rows: for each entry, its place in the product.
        source_colors: for each entry, the color of the product.
        transposed: whether the products are with the transpose.
    """

    colors: Array
    source_rows: Array
    source_colors: Array
    transposed: bool


def symmetric_coloring(pattern: Pattern) -> Coloring:
    """A star coloring of a symmetric pattern."""
    starts, columns = pattern.indptr, pattern.indices
    if _is_dense(pattern):
        colors = np.arange(pattern.shape[0], dtype=np.int32)
    else:
        star_colors = compiled(kernels.star_colors)
        orders = [*_orders(starts), compiled(kernels.smallest_last)(starts, columns)]
        if columns.dtype == np.int32 and pattern.shape[0]:
            # Breadth first, which SciPy has for this width: square grids of some sizes take one color less.
            orders.append(scipy.sparse.csgraph.reverse_cuthill_mckee(pattern, symmetric_mode=True))
        colors = _fewest(lambda order: star_colors(starts, columns, order), orders, 0)
    source_rows, source_colors = compiled(kernels.star_sources)(starts, columns, colors)
    return Coloring(colors, source_rows, source_colors, False)


def column_coloring(pattern: Pattern) -> Coloring:
    """Colors of the columns, or of the rows where these need fewer; no row, or column, holds two of one color."""
    rows, columns = pattern, pattern.T.tocsr()
    # A row of k entries needs k colors of columns.
    bounds = [int(np.diff(side.indptr).max(initial=0)) for side in (rows, columns)]
    found: dict[bool, Array] = {}
    for transposed in (True, False) if bounds[1] <= bounds[0] else (False, True):
        other = found.get(not transposed)
        if other is not None and other.max(initial=-1) + 1 <= bounds[transposed]:
            break
        here, there = (columns, rows) if transposed else (rows, columns)
        found[transposed] = _column_colors(here, there, bounds[transposed])
    transposed = min(found, key=lambda side: found[side].max(initial=-1))
    colors = found[transposed]
    row_numbers = np.repeat(np.arange(pattern.shape[0], dtype=pattern.indices.dtype), np.diff(pattern.indptr))
    if transposed:
        return Coloring(colors, pattern.indices, colors[row_numbers], True)
    return Coloring(colors, row_numbers, colors[pattern.indices], False)


def _column_colors(rows: Pattern, columns: Pattern, bound: int) -> Array:
    if _is_dense(rows):
        return np.arange(rows.shape[1], dtype=np.int32)
    column_colors = compiled(kernels.column_colors)
    arguments = (rows.indptr, rows.indices, columns.indptr, columns.indices)
    return _fewest(lambda order: column_colors(*arguments, order), _orders(columns.indptr), bound)


def _is_dense(pattern: Pattern) -> bool:
    """Whether so many entries are stored that colors would spare little."""
    return 2 * pattern.nnz > pattern.shape[0] * pattern.shape[1]


def _orders(starts: Array) -> list[Array]:
    """The vertices as they come, and by falling degree."""
    vertices = np.arange(len(starts) - 1, dtype=starts.dtype)
    return [vertices, np.argsort(-np.diff(starts), kind="stable").astype(starts.dtype)]


def _fewest(color: Callable[[Array], Array], orders: Iterable[Array], bound: int) -> Array:
    """The coloring with the fewest colors; none has fewer than ``bound``."""
    best: Array | None = None
    for order in orders:
        found = color(order)
        if best is None or found.max(initial=-1) < best.max(initial=-1):
            best = found
        if best.max(initial=-1) < bound:
            break
    assert best is not None
    return best
