"""A replay for some of the leaves only: vectors that are not given are zero, and products not wanted are not made.

A replay is linear in its vectors. So what a zero vector leads to is zero, and is followed through the graph: products
with it vanish, and sums lose a term.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import fx

from hesse._linearize.program.capture import Graph
from hesse._linearize.program.partition import Replay
from hesse._linearize.program.passes.matrix_products import MM
from hesse._linearize.program.passes.scatter_adds import SUM_ROWS

aten = torch.ops.aten

# Zero where the first argument is.
_LINEAR = {
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.expand.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.neg.default,
    aten.clone.default,
    aten.alias.default,
    aten._to_copy.default,
    torch.ops.prims.convert_element_type.default,
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.constant_pad_nd.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.mul.Scalar,
    aten.div.Scalar,
    aten.tanh_backward.default,
    aten.sigmoid_backward.default,
    aten.threshold_backward.default,
    aten.gelu_backward.default,
    aten.silu_backward.default,
    aten._softmax_backward_data.default,
    aten._log_softmax_backward_data.default,
    SUM_ROWS,
}
_SUMS = (aten.add.Tensor, aten.sub.Tensor)
# Zero where any of these arguments is.
_PRODUCTS = {
    aten.mul.Tensor: (0, 1),
    aten.div.Tensor: (0,),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    MM: (0, 1),
}


def restrict(replay: Replay, given: Collection[int], wanted: Sequence[int]) -> Replay:
    """The replay that takes only the vectors at the positions ``given``, and makes only the products ``wanted``."""
    graph = fx.GraphModule(replay.graph, replay.graph.graph.__deepcopy__())
    inputs = graph.graph.find_nodes(op="placeholder")
    of_vectors = inputs[len(replay.kept) :]
    places = dict(zip(replay.vectors, of_vectors, strict=True))
    _leave_out_zeros(graph, {node for place, node in places.items() if place not in given})
    output = graph.graph.output_node()
    products: Any = output.args[0]
    output.args = ([products[i] for i in wanted],)
    graph.graph.eliminate_dead_code()
    kept = [place for place, node in zip(replay.kept, inputs, strict=False) if node.users]
    vectors = [place for place, node in places.items() if node.users]
    for node in inputs:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    stand_ins = [places[place].meta["val"] for place in vectors]
    return Replay(graph, kept, vectors, stand_ins)


def _leave_out_zeros(graph: Graph, zeros: set[fx.Node]) -> None:
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        given = [entry for entry in node.all_input_nodes if entry in zeros]
        if not given:
            continue
        if _is_zero(node, zeros):
            zeros.add(node)
        elif node.target in _SUMS:
            _keep_the_other_term(graph, node, zeros)
        else:
            _fill_in(graph, node, given)
    output = graph.graph.output_node()
    _fill_in(graph, output, [entry for entry in output.all_input_nodes if entry in zeros])


def _is_zero(node: fx.Node, zeros: set[fx.Node]) -> bool:
    if node.target in _PRODUCTS:
        return any(node.args[place] in zeros for place in _PRODUCTS[node.target])
    if node.target is aten.where.self:
        return node.args[1] in zeros and node.args[2] in zeros
    if node.target in _SUMS:
        return node.args[0] in zeros and node.args[1] in zeros
    if node.target is aten.cat.default:
        return all(entry in zeros for entry in node.all_input_nodes)
    if node.target is aten.constant_pad_nd.default and len(node.args) > 2 and node.args[2] != 0:
        return False
    return node.target in _LINEAR and node.args[0] in zeros


def _keep_the_other_term(graph: Graph, node: fx.Node, zeros: set[fx.Node]) -> None:
    """A sum of which one term is zero: the other, in the shape and dtype of the sum."""
    first: Any = node.args[0]
    second: Any = node.args[1]
    meta, alpha = node.meta["val"], cast("float", node.kwargs.get("alpha", 1))
    factor = alpha if node.target is aten.add.Tensor else -alpha
    other, factor = (second, factor) if first in zeros else (first, 1)
    with graph.graph.inserting_before(node):
        call = graph.graph.call_function
        if not isinstance(other, fx.Node):
            found = call(aten.full.default, (list(meta.shape), factor * other), _like(meta))
        else:
            found = other if factor == 1 else call(aten.mul.Tensor, (other, factor))
            value = other.meta["val"]
            if value.dtype != meta.dtype:
                found = call(torch.ops.prims.convert_element_type.default, (found, meta.dtype))
            if value.shape != meta.shape:
                found = call(aten.expand.default, (found, list(meta.shape)))
    if found is not other:
        found.meta["val"] = meta
    node.replace_all_uses_with(found)
    graph.graph.erase_node(node)


def _fill_in(graph: Graph, node: fx.Node, zeros: Sequence[fx.Node]) -> None:
    """Zeros as a tensor, where an operator that is not known to pass them on takes them."""
    with graph.graph.inserting_before(node):
        for zero in zeros:
            meta = zero.meta["val"]
            filled = graph.graph.call_function(aten.full.default, (list(meta.shape), 0), _like(meta))
            filled.meta["val"] = meta
            node.replace_input_with(zero, filled)


def _like(meta: torch.Tensor) -> dict[str, Any]:
    return {"dtype": meta.dtype, "device": meta.device}
