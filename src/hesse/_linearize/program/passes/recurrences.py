"""Compile the steps of recurrences."""

from __future__ import annotations

from hesse._linearize.program.graph import Graph
from hesse._linearize.program.recurrence import RECUR


def compile_steps(graph: Graph) -> Graph:
    """Let each recurrence run a compiled step.

    Before::

        y = hesse.recur("lstm", 0, False, False, states, sequences, matrix)

    After::

        y = hesse.recur("lstm", 0, False, True, states, sequences, matrix)

    An LSTM's program takes as long to compile for 256 steps as for 32 (docs/decisions/engines.md).
    """
    for node in graph.graph.find_nodes(op="call_function", target=RECUR):
        cell, order, reverse, _, *tensors = node.args
        node.args = (cell, order, reverse, True, *tensors)
    graph.recompile()
    return graph
