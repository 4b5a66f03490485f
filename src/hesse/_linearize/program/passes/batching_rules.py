"""Replace operators that ``torch.func.vmap`` batches wrongly or not at all."""

from __future__ import annotations

from typing import Any

import torch

from hesse._linearize.program.graph import Graph

aten = torch.ops.aten


def replace_unbatchable(graph: Graph) -> Graph:
    """Count slices from the start, and write primitives as operators that have a batching rule.

    Before::

        y = slice_scatter(x, part, 0, -3, 2**63 - 1); z = prims.fma(a, b, c)

    After::

        y = slice_scatter(x, part, 0, 7, 10); z = a * b + c

    ``slice_scatter``'s batching rule takes negative and too large indices literally; ``fma`` and ``rev`` have none.
    """
    for node in graph.graph.nodes:
        if node.target is aten.slice_scatter.default:
            given: tuple[Any, ...] = node.args
            dim, start, end, step = list(given[2:]) + [0, None, None, 1][len(given) - 2 :]
            begin, stop, _ = slice(start, end).indices(node.meta["val"].shape[dim])
            node.args = (*given[:2], dim, begin, stop, step)
        elif node.target is torch.ops.prims.fma.default:
            with graph.graph.inserting_before(node):
                product = graph.graph.call_function(aten.mul.Tensor, node.args[:2])
                total = graph.graph.call_function(aten.add.Tensor, (product, node.args[2]))
            node.replace_all_uses_with(total)
            graph.graph.erase_node(node)
        elif node.target is torch.ops.prims.rev.default:
            node.target = aten.flip.default
    graph.recompile()
    return graph
