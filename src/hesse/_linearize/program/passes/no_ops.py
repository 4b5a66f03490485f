"""Drop operators that do nothing."""

from __future__ import annotations

from typing import Any

import torch

from hesse._linearize.program.graph import Graph

aten = torch.ops.aten


def drop_no_ops(graph: Graph) -> Graph:
    """Replace an alias by its tensor, and the transpose of a transpose by the matrix.

    Before::

        y = alias(x); z = y.t().t()

    After::

        z = x

    Autograd records them for its own bookkeeping, and a graph that runs operator by operator pays for each call.
    """
    for node in graph.graph.nodes:
        if node.target in (aten.alias.default, aten.detach.default):
            node.replace_all_uses_with(node.args[0])
        elif _transposes(node) and _transposes(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _transposes(node: Any) -> bool:
    """Whether a node is the transpose of a matrix."""
    return node.target is aten.t.default or (node.target is aten.permute.default and node.args[1] == [1, 0])
