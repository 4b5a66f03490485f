"""Multiply a batch of matrices by one shared matrix in a single product."""

from __future__ import annotations

import torch
from torch import fx

from hesse._linearize.program.graph import Graph

aten = torch.ops.aten


def share_matrices(graph: Graph) -> Graph:
    """Replace a batched product by a wide one where one factor is the same in the whole batch.

    Before::

        c = bmm(a.expand(16, m, k), b)     # b (16, k, n)

    After::

        c = (a @ b.permute(1, 0, 2).reshape(k, 16 * n)).reshape(m, 16, n).permute(1, 0, 2)

    ``vmap`` expands the matrix that all vectors share, and ``bmm`` then reads it once for each of them.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.bmm.default):
        a, b = node.args
        (count, m, k), n = a.meta["val"].shape, b.meta["val"].shape[2]
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            if _is_expanded(a):
                one = call(aten.select.int, (a, 0, 0))
                wide = call(aten.reshape.default, (call(aten.permute.default, (b, [1, 0, 2])), [k, count * n]))
                product = call(aten.reshape.default, (call(aten.mm.default, (one, wide)), [m, count, n]))
                found = call(aten.permute.default, (product, [1, 0, 2]))
            elif _is_expanded(b):
                one = call(aten.select.int, (b, 0, 0))
                tall = call(aten.reshape.default, (a, [count * m, k]))
                found = call(aten.reshape.default, (call(aten.mm.default, (tall, one)), [count, m, n]))
            else:
                continue
        node.replace_all_uses_with(found)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _is_expanded(node: fx.Node) -> bool:
    """Whether a batch of matrices repeats one matrix without a copy."""
    matrices = node.meta["val"]
    return len(matrices) > 1 and matrices.stride(0) == 0
