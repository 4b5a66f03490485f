"""Copy expanded tensors before they are written into."""

from __future__ import annotations

import torch

from hesse._linearize.program.graph import Graph

aten = torch.ops.aten


def copy_expanded_tensors(graph: Graph) -> Graph:
    """Copy a tensor whose elements share memory before ``index_put`` writes into it.

    Before::

        y = index_put(zeros.expand(8, 4), indices, values)

    After::

        y = index_put(zeros.expand(8, 4).contiguous(), indices, values)

    Inductor writes into the one element that all of them share, without an error in some releases.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.index_put.default):
        if 0 in node.args[0].meta["val"].stride():
            with graph.graph.inserting_before(node):
                whole = graph.graph.call_function(
                    aten.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format}
                )
            whole.meta["val"] = node.meta["val"]
            node.replace_input_with(node.args[0], whole)
    graph.recompile()
    return graph
