"""Sum over outer dimensions by PyTorch's own operator."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._linearize.program.graph import Graph, is_on_cpu
from hesse._linearize.program.own_operators import define


def _sum(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x.sum(dims, keepdim)


SUM = define("sum(Tensor x, int[] dims, bool keepdim) -> Tensor", _sum, _sum)

# Bytes of the widest vector register.
_REGISTER = 64
# A sum of fewer elements does not occupy several threads.
_MANY = 4096


def sum_outer_dimensions(graph: Graph) -> Graph:
    """Replace sums of large tensors that keep a last dimension shorter than a register.

    Before::

        y = aten.sum(x, [1])     # x (200, 200, 3)

    After::

        y = hesse.sum(x, [1])

    Inductor starts its threads anew at each step of the outer loop of such a sum. The sum over pairs of atoms took
    most of the time of a replay.
    """
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.sum.dim_IntList):
        x = node.args[0].meta["val"]
        # The sum of a 0-dimensional tensor names dimension 0.
        dims = [dim % max(1, x.dim()) for dim in node.args[1] or range(x.dim())]
        keeps_short = x.dim() > 1 and x.shape[-1] * x.itemsize < _REGISTER and x.dim() - 1 not in dims
        if keeps_short and is_on_cpu(node) and x.numel() >= _MANY and x.dtype == node.meta["val"].dtype:
            keepdim = len(node.args) > 2 and bool(node.args[2])
            node.target, node.args, node.kwargs = SUM, (node.args[0], dims, keepdim), {}
    graph.recompile()
    return graph
