"""A replay for many vectors at once, made from the replay for one: its graph under ``vmap``, put right for compilers.

What does not depend on the vectors is read once for all of them, and products with a matrix that they share become one
product with a matrix as many times as wide.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._linearize.program.capture import Graph, views_to_reshapes
from hesse._linearize.program.undisturbed import undisturbed

aten = torch.ops.aten


def for_many(
    graph: Graph,
    kept: Sequence[Tensor],
    vectors: Sequence[Tensor],
    count: int,
    mode: FakeTensorMode,
    table: dict[Any, Any],
) -> Graph:
    """The graph of a replay for ``count`` vectors a time: each vector, and each product, has one more dimension, first.

    Args:
        graph: takes what is kept, then the vectors; it is not changed.
        kept: stand-ins of the first.
        vectors: stand-ins of the second, for one vector each.
        count: how many vectors there will be.
        mode: the stand-ins' own.
        table: decompositions.
    """
    single = fx.GraphModule(graph, graph.graph.__deepcopy__())
    _fit_for_vmap(single)
    with mode:
        batch = [torch.empty((count, *entry.shape), dtype=entry.dtype, device=entry.device) for entry in vectors]
    in_dims = (*[None] * len(kept), *[0] * len(batch))
    together = torch.func.vmap(lambda *given: tuple(single(*given)), in_dims=in_dims)
    with undisturbed(), mode, warnings.catch_warnings():
        # Of operators that vmap takes sample by sample: once traced, they are only more nodes.
        warnings.filterwarnings("ignore", "There is a performance drop")
        many = make_fx(together, decomposition_table=table)(*kept, *batch)
        _share_matrices(many)
        return make_fx(many, decomposition_table=table)(*kept, *batch)


def _fit_for_vmap(graph: Graph) -> None:
    """Say in other words what vmap cannot follow."""
    views_to_reshapes(graph)
    for node in graph.graph.nodes:
        if node.target is aten.slice_scatter.default:
            # Its batching takes places that count from the end, or lie beyond it, for what they say.
            given: tuple[Any, ...] = node.args
            place = list(given[2:]) + [0, None, None, 1][len(given) - 2 :]
            dim, start, end, step = place
            begin, stop, _ = slice(start, end).indices(node.meta["val"].shape[dim])
            node.args = (*given[:2], dim, begin, stop, step)
        elif node.target is torch.ops.prims.fma.default:
            # It has no batching.
            with graph.graph.inserting_before(node):
                product = graph.graph.call_function(aten.mul.Tensor, node.args[:2])
                added = graph.graph.call_function(aten.add.Tensor, (product, node.args[2]))
            node.replace_all_uses_with(added)
            graph.graph.erase_node(node)
        elif node.target is torch.ops.prims.rev.default:
            # It has none either, and decompositions make it of the operator that has.
            node.target = aten.flip.default
    graph.recompile()


def _share_matrices(graph: Graph) -> None:
    """Products of many matrices with one that is the same for all: one product, of all of them side by side."""
    for node in graph.graph.find_nodes(op="call_function", target=aten.bmm.default):
        a, b = node.args
        (count, m, k), n = a.meta["val"].shape, b.meta["val"].shape[2]
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            if _the_same_for_all(a):
                one = call(aten.select.int, (a, 0, 0))
                beside = call(aten.reshape.default, (call(aten.permute.default, (b, [1, 0, 2])), [k, count * n]))
                product = call(aten.reshape.default, (call(aten.mm.default, (one, beside)), [m, count, n]))
                found = call(aten.permute.default, (product, [1, 0, 2]))
            elif _the_same_for_all(b):
                one = call(aten.select.int, (b, 0, 0))
                below = call(aten.reshape.default, (a, [count * m, k]))
                found = call(aten.reshape.default, (call(aten.mm.default, (below, one)), [count, m, n]))
            else:
                continue
        node.replace_all_uses_with(found)
        graph.graph.erase_node(node)
    views_to_reshapes(graph)


def _the_same_for_all(node: fx.Node) -> bool:
    """Whether a batch of matrices is one, repeated without a copy."""
    matrices = node.meta["val"]
    return len(matrices) > 1 and matrices.stride(0) == 0
