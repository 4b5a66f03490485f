"""Part a captured graph into what is run once a point and what is run for each vector."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
from torch import Tensor, fx

from hesse._base.errors import CaptureError
from hesse._linearize.program.capture import Graph, Joint
from hesse._linearize.protocol import Direction


class Replay(NamedTuple):
    """One direction's graph: it takes the kept tensors and the vectors at these positions, and gives products."""

    graph: Graph
    kept: list[int]
    vectors: list[int]
    stand_ins: list[Tensor]
    """Those of the vectors."""


class Halves(NamedTuple):
    """``first`` takes the point and returns the first results and what is kept.

    Attributes:
        draws: names of the operators by which the first half draws random numbers.
    """

    first: Graph
    replays: dict[Direction, Replay]
    draws: list[str]


def partition(joint: Joint, *, fuses: bool, most: int | None = None) -> Halves:
    """The two halves of a captured graph.

    Where a compiler ``fuses`` elementwise operations as little memory is kept as will do, and not more than ``most``
    bytes as far as computing again helps; otherwise all that does not depend on the vectors is computed once, as by the
    tape.

    Raises:
        CaptureError: the products would draw random numbers of their own.
    """
    inputs = [node for node in joint.graph.graph.nodes if node.op == "placeholder"]
    for i, node in enumerate(inputs):
        # The names that the partitioner tells the two kinds of inputs by.
        kept = i < joint.num_kept_inputs
        node.name = node.target = f"primals_{i + 1}" if kept else f"tangents_{i + 1 - joint.num_kept_inputs}"
    joint.graph.recompile()
    if fuses:
        # It loads half of the compiler.
        from hesse._linearize.program.minimal_cut import by_least_memory

        first, replay = by_least_memory(joint, most)
    else:
        first, replay = _by_dependence(joint)
    for node in replay.graph.nodes:
        if _draws(node):
            raise CaptureError(f"{node.target} would draw anew for every product")
    replays = {}
    vector = product = 0
    for direction, (num_vectors, num_products) in joint.products.items():
        replays[direction] = _part(replay, slice(product, product + num_products), vector)
        vector, product = vector + num_vectors, product + num_products
    return Halves(first, replays, sorted({str(node.target) for node in first.graph.nodes if _draws(node)}))


def _by_dependence(joint: Joint) -> tuple[Graph, Graph]:
    graph = joint.graph.graph
    inputs = graph.find_nodes(op="placeholder")
    dependent = set(inputs[joint.num_kept_inputs :])
    for node in graph.nodes:
        if node.op == "call_function" and any(entry in dependent for entry in node.all_input_nodes):
            dependent.add(node)
    results = list(cast("list[fx.Node]", graph.output_node().args[0]))
    products = results[joint.num_first :]
    # What the dependent ones, or the products themselves, take of the others; a tuple is taken by its entries.
    needed = [
        entry
        for node in graph.nodes
        if node in dependent and node.op == "call_function"
        for entry in node.all_input_nodes
        if entry not in dependent
    ]
    kept = list(dict.fromkeys([*needed, *[node for node in products if node not in dependent]]))
    first = fx.GraphModule(joint.graph, copy.deepcopy(graph))
    copies = dict(zip(graph.nodes, first.graph.nodes, strict=True))
    first.graph.output_node().args = ([copies[node] for node in [*results[: joint.num_first], *kept]],)
    # Not as dead code: what asserts something is never dead.
    for node in reversed(graph.nodes):
        if node in dependent:
            first.graph.erase_node(copies[node])
    first.graph.eliminate_dead_code()
    first.recompile()
    replay = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate(kept):
        made[node] = replay.placeholder(f"kept_{number}")
        made[node].meta = dict(node.meta)
    for node in graph.nodes:
        if node in dependent:
            made[node] = replay.node_copy(node, lambda entry: made[entry])
    replay.output([made[node] for node in products])
    return first, fx.GraphModule(joint.graph, replay)


def _part(replay: Graph, products: slice, first_vector: int) -> Replay:
    """The graph of some of the products, with the inputs that they need; vectors are counted from the first."""
    graph = fx.GraphModule(replay, copy.deepcopy(replay.graph))
    output = graph.graph.output_node()
    output.args = (cast("list[fx.Node]", output.args[0])[products],)
    graph.graph.eliminate_dead_code()
    kept: list[int] = []
    vectors: list[int] = []
    stand_ins = []
    for i, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        if not node.users:
            graph.graph.erase_node(node)
        elif node.target.startswith("tangents"):
            # By its name, since the partitioner leaves out vectors that nothing depends on.
            vectors.append(int(node.target.split("_")[1]) - 1 - first_vector)
            stand_ins.append(node.meta["val"])
        else:
            kept.append(i)
    graph.recompile()
    return Replay(graph, kept, vectors, stand_ins)


def _draws(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def stand_ins_of(graph: Graph) -> list[Tensor]:
    """What a half was traced with, one for each of its inputs."""
    return [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
