"""Compute the factors of large tensors before they are broadcast."""

from __future__ import annotations

from typing import Any

import torch

# Defines the operator below.
import torch._inductor.lowering
from torch import Tensor, fx

from hesse._linearize.program.graph import Graph, is_on_cpu

aten = torch.ops.aten

# Private: Inductor has no public way to have a value computed once. Where it moved, nothing is held.
_REALIZE: Any = getattr(torch.ops._inductor_test, "realize", None)

# Functions that take a processor longer than reading their result from memory.
_COSTLY = frozenset(
    {aten.pow, aten.sqrt, aten.rsqrt, aten.reciprocal, aten.div, aten.exp, aten.exp2, aten.expm1, aten.log, aten.log1p}
    | {aten.log2, aten.log10, aten.sigmoid, aten.tanh, aten.erf, aten.erfc, aten.sin, aten.cos, aten.tan, aten.atan}
)
_VIEWS = frozenset({aten.unsqueeze, aten.squeeze, aten.view, aten.reshape, aten._unsafe_view, aten.permute})
# A result with fewer elements per element of its factor is as fast without.
_TIMES = 16


def hold_small_factors(graph: Graph) -> Graph:
    """Compute a costly function of a small tensor once, and not for each element of the large one that it multiplies.

    Before::

        y = aten.mul(x, aten.pow(v, -0.5))      # x (16, 64, 32, 32), v (64, 1, 1)

    After::

        y = aten.mul(x, _inductor_test.realize(aten.pow(v, -0.5)))

    Inductor copies the expression of a value into each of its users. So each element of an image paid for the powers
    and roots of BatchNorm's variances, which took more time in a residual network than all its other elementwise work.
    A factor that is constant along the last dimensions alone, such as LayerNorm's, stays: the C++ compiler takes it out
    of the inner loop.
    """
    costly: set[fx.Node] = set()
    for node in list(graph.graph.nodes) if _REALIZE is not None else ():
        packet = getattr(node.target, "overloadpacket", None)
        is_of_costly = any(argument in costly for argument in node.all_input_nodes)
        if not ((_is_pointwise(node) and (packet in _COSTLY or is_of_costly)) or (packet in _VIEWS and is_of_costly)):
            continue
        costly.add(node)
        users = [user for user in node.users if _repeats(user, node)]
        if users and is_on_cpu(node):
            with graph.graph.inserting_after(node):
                held = graph.graph.call_function(_REALIZE.default, (node,))
            held.meta["val"] = node.meta["val"]
            for user in users:
                user.replace_input_with(node, held)
    graph.recompile()
    return graph


def _is_pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _repeats(user: fx.Node, node: fx.Node) -> bool:
    """Whether a user repeats a value along a dimension before one in which the value varies."""
    if not (_is_pointwise(user) or getattr(user.target, "overloadpacket", None) is aten.expand):
        return False
    # PyTorch's own rewrites leave a node here and there without its stand-in.
    value, result = node.meta.get("val"), user.meta.get("val")
    if not (isinstance(value, Tensor) and isinstance(result, Tensor)) or result.numel() < _TIMES * value.numel():
        return False
    shape = (1,) * (result.dim() - value.dim()) + tuple(value.shape)
    repeated = [dim for dim, (small, large) in enumerate(zip(shape, result.shape, strict=True)) if small != large]
    varying = [dim for dim, size in enumerate(shape) if size > 1]
    return bool(repeated) and bool(varying) and min(repeated) < max(varying)
