"""Sums over several dimensions at once, and those over outer dimensions by PyTorch's own operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._linearize.program.graph import Graph, is_on_cpu
from hesse._linearize.program.own_operators import define


def _sum(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x.sum(dims, keepdim)


_SUM = torch.ops.aten.sum.dim_IntList
SUM = define("sum(Tensor x, int[] dims, bool keepdim) -> Tensor", _sum, _sum)

# Bytes of the widest vector register.
_REGISTER = 64
# A sum of fewer elements does not occupy several threads.
_MANY = 4096


def join_sums(graph: Graph) -> Graph:
    """Replace a sum of sums by one sum over all their dimensions.

    Before::

        y = aten.sum(aten.sum(x, [0]), [1, 2])      # x (16, 64, 32, 32)

    After::

        y = aten.sum(x, [0, 2, 3])

    The derivatives of BatchNorm sum over one dimension after the other.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_SUM):
        inner = node.args[0]
        if inner.target != _SUM or len(inner.users) > 1 or inner.kwargs or node.kwargs or _keeps(inner) != _keeps(node):
            continue
        x, first = inner.args[0], _dims(inner)
        left = [dim for dim in range(x.meta["val"].dim()) if _keeps(inner) or dim not in first]
        node.args = x, sorted({*first, *[left[dim] for dim in _dims(node)]}), _keeps(node)
        graph.graph.erase_node(inner)
    graph.recompile()
    return graph


def _dims(node: Any) -> list[int]:
    """The dimensions of a sum, from the front. That of a 0-dimensional tensor names dimension 0."""
    x, dims = node.args[0].meta["val"], node.args[1]
    return [dim % max(1, x.dim()) for dim in dims or range(x.dim())]


def _keeps(node: Any) -> bool:
    return len(node.args) > 2 and bool(node.args[2])


def sum_outer_dimensions(graph: Graph) -> Graph:
    """Replace sums of large tensors that keep a last dimension shorter than a register.

    Before::

        y = aten.sum(x, [1])     # x (200, 200, 3)

    After::

        y = hesse.sum(x, [1])

    Inductor starts its threads anew at each step of the outer loop of such a sum. The sum over pairs of atoms took
    most of the time of a replay.
    """
    for node in graph.graph.find_nodes(op="call_function", target=_SUM):
        x, dims = node.args[0].meta["val"], _dims(node)
        keeps_short = x.dim() > 1 and x.shape[-1] * x.itemsize < _REGISTER and x.dim() - 1 not in dims
        if keeps_short and is_on_cpu(node) and x.numel() >= _MANY and x.dtype == node.meta["val"].dtype:
            node.target, node.args, node.kwargs = SUM, (node.args[0], dims, _keeps(node)), {}
    graph.recompile()
    return graph
