"""Rewrite scatter-adds, the derivatives of gathers, as segment sums."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, fx

from hesse._base.compressed_rows import compressed_rows
from hesse._linearize.program.graph import (
    Graph,
    dependent_on_vectors,
    is_on_cpu,
    results_of,
    retraced,
    set_results,
)
from hesse._linearize.program.own_operators import define

aten = torch.ops.aten


def _order_indices(indices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The order that sorts the indices, and where each of 0, …, count begins in it: 32-bit, as sparse kernels take.

    They are those of the transpose of a matrix with a single entry in each row, which SciPy makes by counting: a third
    of the time of ``torch.sort``. Indices are remainders, so none is out of range.
    """
    size = len(indices)
    entries = np.zeros(size, dtype=np.int8), indices.numpy().astype(np.int32), np.arange(size + 1, dtype=np.int32)
    transposed = scipy.sparse.csr_array(entries, shape=(size, count)).tocsc()
    return torch.from_numpy(transposed.indices), torch.from_numpy(transposed.indptr)


def _add_segments(rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum k of ``rows`` (m, d) is over the rows ``order[starts[k]:starts[k + 1]]``.

    PyTorch's sum of bags has fast kernels for float32 alone. In float64, a product with a sparse matrix of ones by MKL
    takes a third of its time for 48 columns, and a fifteenth for one.
    """
    rows = rows.contiguous()
    if rows.dtype != torch.float64 or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]  # PyTorch's
        total: Tensor = aten._embedding_bag_forward_only(rows, order, starts, include_last_offset=True)[0]
        return total
    ones = compressed_rows(starts, order, rows.new_ones(len(rows)), (len(starts) - 1, len(rows)))
    return ones.mv(rows[:, 0]).unsqueeze(1) if rows.shape[1] == 1 else ones.mm(rows)


def _add_segments_batched(info: Any, in_dims: Sequence[int | None], rows: Tensor, order: Tensor, starts: Tensor) -> Any:
    """All vectors have the same indices, so their rows are concatenated."""
    many = rows.movedim(in_dims[0] or 0, 1)
    total = ADD_SEGMENTS(many.reshape(len(many), -1), order, starts)
    return total.reshape(len(starts) - 1, *many.shape[1:]), 1


ORDER_INDICES = define(
    "order_indices(Tensor indices, int count) -> (Tensor, Tensor)",
    _order_indices,
    lambda indices, count: (
        indices.new_empty(len(indices), dtype=torch.int32),
        indices.new_empty(count + 1, dtype=torch.int32),
    ),
)
ADD_SEGMENTS = define(
    "add_segments(Tensor rows, Tensor order, Tensor starts) -> Tensor",
    _add_segments,
    lambda rows, order, starts: rows.new_empty(starts.shape[0] - 1, rows.shape[1]),
    _add_segments_batched,
)


def sort_scatter_adds(graph: Graph) -> Graph:
    """Sort the indices of scatter-adds once per point, and sum consecutive rows in each replay.

    Before::

        y = index_put(zeros, [i], rows, accumulate=True)

    After::

        order, starts = order_indices(i, len(zeros))
        y = zeros + add_segments(rows, order, starts)

    Inductor adds atomically, which took four fifths of the time of a sum over pairs of atoms, in a new order each
    time. Sorted, a replay took 114 µs instead of 418 µs, and rounds the same each time (docs/decisions/engines.md).

    The graph returns ``order`` and ``starts`` before its other results, so that the first half computes them.
    """
    dependent = dependent_on_vectors(graph)
    found: list[fx.Node] = []
    for node in list(graph.graph.nodes):
        if node in dependent and _is_scatter_add(node) and dependent.isdisjoint(node.args[1]):
            with graph.graph.inserting_before(node):
                total, segments = _segment_sum(graph.graph, node)
            node.replace_all_uses_with(total)
            graph.graph.erase_node(node)
            found += segments
    if not found:
        return graph
    set_results(graph, [*found, *results_of(graph)])
    return retraced(graph)


def _is_scatter_add(node: fx.Node) -> bool:
    """``index_put`` that accumulates real numbers on a CPU, with indices for the first dimensions."""
    if node.target is not aten.index_put.default or len(node.args) < 4 or not node.args[3]:
        return False
    given: Any = node.args
    indices = given[1]
    return (
        is_on_cpu(node)
        and node.meta["val"].dtype in (torch.float32, torch.float64)
        and all(index is not None and index.meta["val"].dtype == torch.int64 for index in indices)
        and max(node.meta["val"].numel(), given[2].meta["val"].numel(), _num_rows(indices)) < 2**31
    )


def _num_rows(indices: Sequence[fx.Node]) -> int:
    return math.prod(np.broadcast_shapes(*[tuple(index.meta["val"].shape) for index in indices]))


def _segment_sum(graph: fx.Graph, node: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """``into + sums`` for ``index_put(into, indices, values, True)``, and the sorted indices."""
    given: Any = node.args
    into, indices, values = given[:3]
    call = graph.call_function
    shape, dims = list(node.meta["val"].shape), len(indices)
    broadcast = list(np.broadcast_shapes(*[tuple(index.meta["val"].shape) for index in indices]))
    # One index for each row, over all indexed dimensions; negative indices count from the end.
    linear: Any = None
    for size, index in zip(shape, indices, strict=False):
        within = call(aten.expand.default, (call(aten.remainder.Scalar, (index, size)), broadcast))
        linear = within if linear is None else call(aten.add.Tensor, (call(aten.mul.Tensor, (linear, size)), within))
    segments = call(ORDER_INDICES, (call(aten.reshape.default, (linear, [-1])), math.prod(shape[:dims])))
    order, starts = [call(operator.getitem, (segments, i)) for i in range(2)]
    rows = call(aten.expand.default, (values, [*broadcast, *shape[dims:]]))
    rows = call(aten.reshape.default, (rows, [math.prod(broadcast), math.prod(shape[dims:])]))
    sums = call(aten.reshape.default, (call(ADD_SEGMENTS, (rows, order, starts)), shape))
    return call(aten.add.Tensor, (into, sums)), [order, starts]
