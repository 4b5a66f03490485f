"""Compile the steps of recurrences."""

from __future__ import annotations

from hesse._linearize.program.cells import cell_of
from hesse._linearize.program.graph import Graph
from hesse._linearize.program.recurrence import RECUR


def compile_steps(graph: Graph) -> Graph:
    """Let each recurrence run a compiled step, which does not write what nothing reads.

    Before::

        s, c, i, f, g, o, tanh = hesse.recur("lstm", False, False, [], states, sequences, matrix)
        return s

    After::

        s, c, *_ = hesse.recur("lstm", False, True, [2, 3, 4, 5, 6], states, sequences, matrix)
        return s

    An LSTM's program takes as long to compile for 256 steps as for 32 (docs/decisions/engines.md).
    """
    for node in graph.graph.find_nodes(op="call_function", target=RECUR):
        name, reverse, _, _, *tensors = node.args
        read = {user.args[1] for user in node.users if user.users}
        results = node.meta["val"]
        unread = [i for i in range(cell_of(name).num_states, len(results)) if i not in read]
        node.args = (name, reverse, True, unread, *tensors)
        node.meta["val"] = [entry.new_empty([0]) if i in unread else entry for i, entry in enumerate(results)]
    graph.recompile()
    return graph
