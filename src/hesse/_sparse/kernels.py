"""Loops over the entries of a pattern, in Python that numba compiles; ``compiled.py`` compiles them.

A pattern is given in compressed rows: the columns of row i are ``columns[starts[i]:starts[i + 1]]``, ascending.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def star_colors(starts: Array, columns: Array, order: Array) -> Array:
    """A star coloring of the graph of a symmetric pattern: the color of each vertex.

    Neighbors differ, and each path of four vertices has three colors. So two colors induce a forest of stars, and an
    entry (i, j) is read from row i or row j of the products.

    Each colored vertex w keeps one slot for each color among its neighbors: SINGLE, one neighbor; HUB, several, so w is
    the center of a star; SPOKE, one neighbor, which is the center of a star with the color of w. The work at a vertex
    is the number of distinct colors around its neighbors, not the number of their neighbors.

    Source: Gebremedhin, Tarafdar, Manne and Pothen, SIAM J. Sci. Comput. 29 (2007), algorithm 4.1.
    """
    single, hub, spoke = 0, 1, 2
    n = len(starts) - 1
    colors = np.full(n, -1, dtype=np.int32)
    slot_colors = np.empty(len(columns), dtype=np.int32)
    slot_firsts = np.empty(len(columns), dtype=columns.dtype)
    slot_states = np.empty(len(columns), dtype=np.int8)
    slot_counts = np.zeros(n, dtype=columns.dtype)
    # By color: the last vertex that must not have it, and the last one with a neighbor of it, which, and its slot.
    forbidden = np.full(n + 1, -1, dtype=columns.dtype)
    seen = np.full(n, -1, dtype=columns.dtype)
    firsts = np.empty(n, dtype=columns.dtype)
    slots = np.empty(n, dtype=columns.dtype)
    repeated = np.empty(n, dtype=np.bool_)
    for v in order:
        for entry in range(starts[v], starts[v + 1]):
            w = columns[entry]
            color = colors[w]
            if w == v or color < 0:
                continue
            forbidden[color] = v
            if seen[color] != v:
                # A path of two colors would run from v through w to a star that w is a spoke of.
                seen[color] = v
                firsts[color] = w
                repeated[color] = False
                for slot in range(starts[w], starts[w] + slot_counts[w]):
                    if slot_states[slot] == spoke:
                        forbidden[slot_colors[slot]] = v
                continue
            # A path of two colors would run through v.
            if not repeated[color]:
                repeated[color] = True
                other = firsts[color]
                for slot in range(starts[other], starts[other] + slot_counts[other]):
                    forbidden[slot_colors[slot]] = v
            for slot in range(starts[w], starts[w] + slot_counts[w]):
                forbidden[slot_colors[slot]] = v
        chosen = 0
        while forbidden[chosen] == v:
            chosen += 1
        colors[v] = chosen
        for entry in range(starts[v], starts[v + 1]):
            w = columns[entry]
            color = colors[w]
            if w == v or color < 0 or firsts[color] != w:
                continue
            slot = starts[v] + slot_counts[v]
            slot_counts[v] += 1
            slots[color] = slot
            slot_colors[slot] = color
            slot_firsts[slot] = w
            slot_states[slot] = hub if repeated[color] else single
        for entry in range(starts[v], starts[v + 1]):
            w = columns[entry]
            color = colors[w]
            if w == v or color < 0:
                continue
            end = starts[w] + slot_counts[w]
            slot = starts[w]
            while slot < end and slot_colors[slot] != chosen:
                slot += 1
            if slot == end:
                slot_counts[w] += 1
                slot_colors[slot] = chosen
                slot_firsts[slot] = v
                slot_states[slot] = spoke if slot_states[slots[color]] == hub else single
                continue
            if slot_states[slot] == single:
                slot_states[slot] = hub
                x = slot_firsts[slot]
                mirrored = starts[x]
                while slot_colors[mirrored] != color:
                    mirrored += 1
                slot_states[mirrored] = spoke
            slot_states[slots[color]] = spoke
    return colors


def smallest_last(starts: Array, columns: Array) -> Array:
    """The vertices, each before those that were taken away earlier, always one of smallest degree among the rest.

    Source: Matula and Beck, J. ACM 30 (1983).
    """
    n = len(starts) - 1
    degrees = np.empty(n, dtype=columns.dtype)
    largest = 0
    for v in range(n):
        degrees[v] = starts[v + 1] - starts[v]
        largest = max(largest, degrees[v])
    # Vertices sorted by degree; ``bounds[d]`` is where those of degree d begin.
    bounds = np.zeros(largest + 2, dtype=columns.dtype)
    for v in range(n):
        bounds[degrees[v] + 1] += 1
    for degree in range(largest + 1):
        bounds[degree + 1] += bounds[degree]
    order = np.empty(n, dtype=columns.dtype)
    places = np.empty(n, dtype=columns.dtype)
    filled = bounds.copy()
    for v in range(n):
        places[v] = filled[degrees[v]]
        order[places[v]] = v
        filled[degrees[v]] += 1
    for place in range(n):
        v = order[place]
        for entry in range(starts[v], starts[v + 1]):
            w = columns[entry]
            if degrees[w] <= degrees[v]:
                continue
            # Swapped with the first of its degree, which then begins one later.
            first = bounds[degrees[w]]
            u = order[first]
            order[first], order[places[w]] = w, u
            places[u], places[w] = places[w], first
            bounds[degrees[w]] = first + 1
            degrees[w] -= 1
    return order[::-1].copy()


def column_colors(starts: Array, columns: Array, column_starts: Array, rows: Array, order: Array) -> Array:
    """Colors of the columns of a pattern so that no row holds two of one color.

    Source: Curtis, Powell and Reid, IMA J. Appl. Math. 13 (1974).
    """
    n = len(column_starts) - 1
    colors = np.full(n, -1, dtype=np.int32)
    forbidden = np.full(n + 1, -1, dtype=columns.dtype)
    for v in order:
        for place in range(column_starts[v], column_starts[v + 1]):
            row = rows[place]
            for entry in range(starts[row], starts[row + 1]):
                color = colors[columns[entry]]
                if color >= 0:
                    forbidden[color] = v
        chosen = 0
        while forbidden[chosen] == v:
            chosen += 1
        colors[v] = chosen
    return colors


def star_sources(starts: Array, columns: Array, colors: Array) -> tuple[Array, Array]:
    """For each entry of a symmetric pattern, the row and the color of the product that holds it.

    Entries (i, j) and (j, i) have the same source, so the matrix is symmetric to the bit.
    """
    n = len(starts) - 1
    is_alone = np.empty(len(columns), dtype=np.bool_)
    seen = np.full(n, -1, dtype=columns.dtype)
    firsts = np.empty(n, dtype=columns.dtype)
    for i in range(n):
        for entry in range(starts[i], starts[i + 1]):
            color = colors[columns[entry]]
            is_alone[entry] = seen[color] != i
            if seen[color] == i:
                is_alone[firsts[color]] = False
            else:
                seen[color] = i
                firsts[color] = entry
    source_rows = np.empty(len(columns), dtype=columns.dtype)
    source_colors = np.empty(len(columns), dtype=np.int32)
    # Rows are gone through in order, so that the mirror images of a column's entries come in order.
    next_mirror = starts[:-1].copy()
    for i in range(n):
        for entry in range(starts[i], starts[i + 1]):
            j = columns[entry]
            mirror = next_mirror[j]
            next_mirror[j] += 1
            low, high = min(i, j), max(i, j)
            if is_alone[entry if i <= j else mirror]:
                source_rows[entry], source_colors[entry] = low, colors[high]
            else:
                source_rows[entry], source_colors[entry] = high, colors[low]
    return source_rows, source_colors


def read_rows(
    begin: int,
    end: int,
    starts: Array,
    columns: Array,
    sources: Array,
    first: int,
    products: Array,
    values: Array,
    vectors: tuple[Array, Array],
    expected: tuple[Array, Array],
    allowed: float,
) -> bool:
    """Write the entries of rows ``begin`` to ``end`` that lie in some products; whether the rows agree afterwards.

    The products are concatenated in ``products``, and ``first`` is the number of its first element among all products.
    Rows agree where they times both ``vectors`` differ from ``expected`` by no more than ``allowed`` times the sum of
    their absolute entries. An infinity or NaN does not agree.
    """
    (u, v), (expected_u, expected_v) = vectors, expected
    agrees = True
    # All indices are unsigned: of a signed one numba asks whether it counts from the end, which takes as long again.
    skipped, count, one = np.uintp(first), np.uintp(len(products)), np.uintp(1)
    entry = np.uintp(starts[begin])
    for row in range(np.uintp(begin), np.uintp(end)):
        found_u = found_v = size = 0.0
        stop = np.uintp(starts[row + one])
        while entry < stop:
            column, source = np.uintp(columns[entry]), np.uintp(sources[entry]) - skipped
            # A source before the first one wraps around to a large number.
            if source < count:
                values[entry] = products[source]
            value = values[entry]
            found_u += value * u[column]
            found_v += value * v[column]
            size += abs(value)
            entry += one
        # Written so that a NaN does not agree.
        if not (abs(expected_u[row] - found_u) <= allowed * size and abs(expected_v[row] - found_v) <= allowed * size):
            agrees = False
    return agrees
