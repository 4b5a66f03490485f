"""Simplify a graph by Inductor's own passes."""

from __future__ import annotations

from torch._inductor.fx_passes.joint_graph import joint_graph_passes

from hesse._linearize.program.graph import Graph, mode_of
from hesse._linearize.program.inductor import settings


def apply_inductor_patterns(graph: Graph) -> Graph:
    """Fold constants, drop no-ops and match patterns, as PyTorch's compiler does before it cuts a joint graph.

    Before::

        y = x * full([3], 1); z = y.view(3)

    After::

        z = x

    The minimal cut and the compiled halves are then those of the smaller graph.
    """
    with settings(mode_of(graph)):
        joint_graph_passes(graph)
    return graph
