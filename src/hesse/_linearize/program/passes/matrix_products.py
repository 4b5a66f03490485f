"""Multiply matrices by oneDNN where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base import onednn
from hesse._linearize.program.graph import Graph
from hesse._linearize.program.own_operators import define

# As PyTorch's own operator, Inductor would copy a transposed argument before the call.
MM = define("mm(Tensor a, Tensor b) -> Tensor", onednn.product, lambda a, b: a.new_empty(a.shape[0], b.shape[1]))


def multiply_by_onednn(graph: Graph) -> Graph:
    """Replace those matrix products that oneDNN is faster at than the library PyTorch calls.

    Before::

        c = aten.mm(a, b)

    After::

        c = hesse.mm(a, b)

    MKL uses half the width of AMD's registers in single precision: replays of a logistic regression went from 1.9x to
    4x a lone ``vhp``, those of a multilayer perceptron from 1.3x to 2.7x (docs/decisions/engines.md). Of a matrix and a
    vector, its product uses one thread; there ``aten.addmm`` is replaced too, by the product and a sum.
    """
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default):
        bias, *matrices = node.args
        shapes = [matrix.meta["val"].shape for matrix in matrices]
        is_of_vector = 1 in (shapes[0][0], shapes[1][1]) and not node.kwargs
        if is_of_vector and _is_faster(*[matrix.meta["val"] for matrix in matrices]):
            with graph.graph.inserting_before(node):
                product = graph.graph.call_function(MM, tuple(matrices))
                total = graph.graph.call_function(torch.ops.aten.add.Tensor, (product, bias))
            product.meta["val"] = total.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(total)
            graph.graph.erase_node(node)
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
        if _is_faster(*[argument.meta["val"] for argument in node.args]):
            node.target = MM
    graph.recompile()
    return graph


def _is_faster(a: Tensor, b: Tensor) -> bool:
    return _is_contiguous_either_way(a) and _is_contiguous_either_way(b) and onednn.outruns(a, b)


def _is_contiguous_either_way(matrix: Tensor) -> bool:
    """Whether a matrix or its transpose is contiguous, which oneDNN requires."""
    return matrix.is_contiguous() or matrix.mT.is_contiguous()
