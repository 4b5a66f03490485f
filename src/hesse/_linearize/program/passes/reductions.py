"""Sums over what is not the last dimension, where that is short: PyTorch's own, and not Inductor's.

For these Inductor counts no steps in the outer loops, since the last dimension is shorter than its vectors, and starts
its threads for each of them anew: the sum over pairs of coordinates of atoms took most of a replay so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._linearize.program.capture import Graph

aten = torch.ops.aten

_library = torch.library.Library("hesse", "FRAGMENT")  # type: ignore[no-untyped-call]  # no types there
_library.define("sum(Tensor x, int[] dims, bool keepdim) -> Tensor")  # type: ignore[no-untyped-call]  # as above


def _sum(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x.sum(dims, keepdim)


_library.impl("sum", _sum, "CPU")  # type: ignore[no-untyped-call]  # as above
torch.library.register_fake("hesse::sum", _sum, lib=_library)

# Bytes of the longest vector of a processor.
_VECTOR = 64
# A sum of fewer elements is no work for several threads.
_MANY = 4096


def sum_over_outer_dimensions(graph: Graph) -> None:
    """Replace in ``graph`` the sums that Inductor is slow at."""
    for node in graph.graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
        x = node.args[0].meta["val"]
        # One of a number names a dimension that it has not.
        dims = [dim % max(1, x.dim()) for dim in node.args[1] or range(x.dim())]
        is_short = x.dim() > 1 and x.shape[-1] * x.itemsize < _VECTOR and x.dim() - 1 not in dims
        if x.device.type == "cpu" and is_short and x.numel() >= _MANY and x.dtype == node.meta["val"].dtype:
            keepdim = len(node.args) > 2 and bool(node.args[2])
            node.target, node.args, node.kwargs = torch.ops.hesse.sum.default, (node.args[0], dims, keepdim), {}
    graph.recompile()
