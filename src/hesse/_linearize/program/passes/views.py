"""Write views as reshapes."""

from __future__ import annotations

import torch

from hesse._linearize.program.graph import Graph

aten = torch.ops.aten


def reshape_for_view(graph: Graph) -> Graph:
    """Replace ``view``, which raises where strides do not allow it, by ``reshape``, which copies there.

    Before::

        y = aten.view(x, shape)

    After::

        y = aten.reshape(x, shape)

    Decomposed or batched operators may lay out their results differently from the recorded ones.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default
    graph.recompile()
    return graph
