"""Captured graphs: how their inputs are named, copied and traced again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

# Private: the code of a graph is written when the graph first runs, and not after each change.
from torch.fx._lazy_graph_module import _make_graph_module, _use_lazy_graph_module

# Not documented but in public use: records the operations below autograd.
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._base.interrupts import Held
from hesse._linearize.program.undisturbed import tracing, undisturbed

Graph = fx.GraphModule
"""A functional graph; ``node.meta["val"]`` holds the stand-in of each node."""

Pass = Callable[[Graph], Graph]
"""Returns a graph with the same results. It may change the graph that it is given."""

lazily = _use_lazy_graph_module(True)
"""Decorates a function in which no code of a graph is written before the graph runs."""

POINT, VECTOR = "primals_", "tangents_"
"""Prefixes of the inputs' names: PyTorch's partitioner tells the two kinds apart by them."""


def run_passes(graph: Graph, passes: Sequence[Pass]) -> Graph:
    """The graph after all passes, in their order."""
    for rewrite in passes:
        # Some compute with stand-ins, within a mode of PyTorch's dispatcher.
        with Held():
            graph = rewrite(graph)
    return graph


def inputs_of(graph: Graph) -> list[fx.Node]:
    """The nodes of a graph's inputs."""
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def stand_ins_of(graph: Graph) -> list[Tensor]:
    """The stand-ins of a graph's inputs."""
    return [node.meta["val"] for node in inputs_of(graph)]


def results_of(graph: Graph) -> list[fx.Node]:
    """The nodes that a graph returns."""
    return list(cast("list[fx.Node]", graph.graph.output_node().args[0]))


def set_results(graph: Graph, results: Sequence[fx.Node]) -> None:
    """Make the graph return these nodes."""
    graph.graph.output_node().args = (list(results),)
    graph.recompile()


def name_inputs(graph: Graph, names: Sequence[str]) -> None:
    """Rename a graph's inputs: their targets, and where no other node is called so, the nodes."""
    inputs = inputs_of(graph)
    taken = {node.name for node in graph.graph.nodes}.difference(node.name for node in inputs)
    for node, name in zip(inputs, names, strict=True):
        node.target = name
        if name not in taken:
            node.name = name
    graph.recompile()


def is_vector(node: fx.Node) -> bool:
    """Whether an input is a vector, and not part of the point."""
    return str(node.target).startswith(VECTOR)


def dependent_on_vectors(graph: Graph) -> set[fx.Node]:
    """The nodes that depend on a vector."""
    dependent = {node for node in inputs_of(graph) if is_vector(node)}
    for node in graph.graph.nodes:
        if node.op == "call_function" and not dependent.isdisjoint(node.all_input_nodes):
            dependent.add(node)
    return dependent


def module_of(nodes: fx.Graph, like: Graph) -> Graph:
    """These nodes as a graph that can be called, with the constants of another graph."""
    made: Graph = _make_graph_module(like, nodes)
    return made


def copy_of(graph: Graph) -> Graph:
    """A graph that can be changed without changing this one."""
    return module_of(copy.deepcopy(graph.graph), graph)


def trace(function: Callable[..., Any], like: Graph, inputs: Sequence[Tensor], table: Any = None) -> Graph:
    """Record ``function`` of stand-ins as a graph whose inputs are named as those of ``like``.

    ``table`` are decompositions: operators to be written with others.
    """
    with tracing, Held(), undisturbed(), mode_of(like), warnings.catch_warnings():
        # PyTorch warns of operators that vmap takes sample by sample: once recorded, they are only more nodes.
        warnings.filterwarnings("ignore", "There is a performance drop")
        graph = make_fx(function, decomposition_table=table)(*inputs)
    name_inputs(graph, [str(node.target) for node in inputs_of(like)])
    return graph


def retraced(graph: Graph, table: Any = None) -> Graph:
    """The graph recorded again, which gives new nodes their stand-ins."""
    return trace(graph, graph, stand_ins_of(graph), table)


def mode_of(graph: Graph) -> FakeTensorMode:
    """The mode that the stand-ins of a graph belong to."""
    values = [node.meta.get("val") for node in graph.graph.nodes]
    return next(value.fake_mode for value in values if isinstance(value, FakeTensor))


def is_on_cpu(node: fx.Node) -> bool:
    """Whether a node's tensor is on a CPU."""
    return bool(node.meta["val"].device.type == "cpu")
