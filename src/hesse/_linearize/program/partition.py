"""Partition a captured graph into the half that runs once per point and the half that runs for each vector."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from hesse._base.errors import CaptureError
from hesse._linearize.program.capture import Joint
from hesse._linearize.program.graph import (
    VECTOR,
    Graph,
    copy_of,
    dependent_on_vectors,
    inputs_of,
    is_vector,
    module_of,
    results_of,
    set_results,
)
from hesse._linearize.program.parts import Replay
from hesse._linearize.program.randomness import draws
from hesse._linearize.protocol import Direction


class Halves(NamedTuple):
    """``first`` takes the point and returns the first results, then the kept tensors.

    Attributes:
        draws: names of the operators by which the first half draws random numbers.
    """

    first: Graph
    replays: dict[Direction, Replay]
    draws: list[str]


def partition(joint: Joint, *, fuses: bool, most: int | None = None) -> Halves:
    """The two halves of a captured graph.

    Where a compiler ``fuses`` elementwise operations, the cut keeps as little memory as possible, and recomputes to
    stay below ``most`` bytes where that helps. Otherwise the first half computes all that does not depend on vectors,
    as the tape does.

    Raises:
        CaptureError: the products would draw random numbers of their own.
    """
    num_first = len(results_of(joint.graph)) - sum(products for _, products in joint.products.values())
    if fuses:
        # It loads half of the compiler.
        from hesse._linearize.program.minimal_cut import by_least_memory

        first, replay = by_least_memory(joint.graph, num_first, most)
    else:
        first, replay = _by_dependence(joint.graph, num_first)
    for node in replay.graph.nodes:
        if _draws(node):
            raise CaptureError(f"{node.target} would draw anew for every product")
    replays = {}
    vector = product = 0
    for direction, (num_vectors, num_products) in joint.products.items():
        replays[direction] = _part(replay, slice(product, product + num_products), vector)
        vector, product = vector + num_vectors, product + num_products
    return Halves(first, replays, sorted({str(node.target) for node in first.graph.nodes if _draws(node)}))


def whole_product(joint: Joint) -> Replay:
    """The products of a captured graph from the point itself: a replay for which nothing is computed beforehand."""
    return _part(joint.graph, slice(joint.num_first, None), 0)


def _by_dependence(joint: Graph, num_first: int) -> tuple[Graph, Graph]:
    dependent = dependent_on_vectors(joint)
    results = results_of(joint)
    # Arguments and results of the replay that do not depend on vectors; of a tuple, its entries.
    needed = [
        entry
        for node in joint.graph.nodes
        if node in dependent
        for entry in node.all_input_nodes
        if entry not in dependent
    ]
    kept = list(dict.fromkeys([*needed, *[node for node in results[num_first:] if node not in dependent]]))
    first = copy_of(joint)
    copies = dict(zip(joint.graph.nodes, first.graph.nodes, strict=True))
    set_results(first, [copies[node] for node in [*results[:num_first], *kept]])
    # Erased one by one, since dead code elimination keeps assertions.
    for node in reversed(joint.graph.nodes):
        if node in dependent:
            first.graph.erase_node(copies[node])
    first.graph.eliminate_dead_code()
    first.recompile()
    replay = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate(kept):
        made[node] = replay.placeholder(f"kept_{number}")
        made[node].meta = dict(node.meta)
    for node in joint.graph.nodes:
        if node in dependent:
            made[node] = replay.node_copy(node, lambda entry: made[entry])
    replay.output([made[node] for node in results[num_first:]])
    return first, module_of(replay, joint)


def _part(replay: Graph, products: slice, first_vector: int) -> Replay:
    """The graph of some of the products, with the inputs that they need; vectors are counted from the first."""
    graph = copy_of(replay)
    set_results(graph, results_of(graph)[products])
    graph.graph.eliminate_dead_code()
    kept: list[int] = []
    vectors: list[int] = []
    stand_ins = []
    for i, node in enumerate(inputs_of(graph)):
        if not node.users:
            graph.graph.erase_node(node)
        elif is_vector(node):
            # By its name, since the partitioner drops vectors that nothing depends on.
            vectors.append(int(str(node.target).removeprefix(VECTOR)) - first_vector)
            stand_ins.append(node.meta["val"])
        else:
            kept.append(i)
    graph.recompile()
    return Replay(graph, kept, vectors, stand_ins)


def _draws(node: fx.Node) -> bool:
    return draws(node.target, node.args, node.kwargs)
