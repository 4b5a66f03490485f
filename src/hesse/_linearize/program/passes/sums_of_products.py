"""Add matrix products where elementwise kernels read them."""

from __future__ import annotations

from typing import Any

import torch

from hesse._linearize.program.graph import Graph, is_on_cpu

aten = torch.ops.aten
_MM, _ADDMM, _ADD = aten.mm.default, aten.addmm.default, aten.add.Tensor
_VIEWS = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.expand.default,
}


def add_products_in_kernels(graph: Graph) -> Graph:
    """Leave the sum of a matrix product and another tensor to the elementwise operations that follow.

    Before::

        y = aten.addmm(bias, x, w)
        z = aten.tanh(y)

    After::

        y = aten.sub(aten.mm(x, w), aten.neg(bias))
        z = aten.tanh(y)

    On a CPU Inductor makes each such sum an ``addmm``, which copies ``bias`` into its result before it multiplies. The
    kernel of the elementwise operation adds as it reads. A difference has the same bits, and Inductor leaves it alone.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_ADDMM):
        if _is_for_a_kernel(node):
            bias, *matrices = node.args
            with graph.graph.inserting_before(node):
                product = graph.graph.call_function(_MM, tuple(matrices))
            product.meta["val"] = node.meta["val"]
            _subtract(graph, node, product, bias)
    for node in graph.graph.find_nodes(op="call_function", target=_ADD):
        products = [entry for entry in node.args if isinstance(entry, torch.fx.Node) and entry.target == _MM]
        dtypes = {entry.meta["val"].dtype for entry in node.args if isinstance(entry, torch.fx.Node)}
        if products and len(node.all_input_nodes) == 2 and len(dtypes) == 1 and _is_for_a_kernel(node):
            first, second = node.args if node.args[0] in products else node.args[::-1]
            _subtract(graph, node, first, second)
    graph.recompile()
    return graph


def _subtract(graph: Graph, node: Any, product: Any, other: Any) -> None:
    """Put ``product - (-other)`` in the place of a node."""
    with graph.graph.inserting_before(node):
        negated = graph.graph.call_function(aten.neg.default, (other,))
        total = graph.graph.call_function(aten.sub.Tensor, (product, negated))
    negated.meta["val"], total.meta["val"] = other.meta["val"], node.meta["val"]
    node.replace_all_uses_with(total)
    graph.graph.erase_node(node)


def _is_for_a_kernel(node: Any) -> bool:
    """Whether a plain sum on the CPU goes into an elementwise operation."""
    return not node.kwargs and is_on_cpu(node) and node.meta["val"].is_floating_point() and _is_read(node)


def _is_read(node: Any) -> bool:
    for user in node.users:
        if user.target in _VIEWS:
            if _is_read(user):
                return True
        elif torch.Tag.pointwise in getattr(user.target, "tags", ()):
            return True
    return False
