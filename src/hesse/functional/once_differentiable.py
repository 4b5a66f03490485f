"""Refuse functions of the user's whose backward is marked once differentiable.

PyTorch raises for them only where a gradient flows back into such a backward; a gradient that starts there, or behind
linear operations, is taken for a constant, and its derivative for zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hesse.errors import NoDerivativeError
from hesse.functional import graph

# Every backward with the mark is this code around the user's.
_MARK = once_differentiable(lambda ctx: None).__code__

_looked_at = 0
_exist = False


def refuse_once_differentiable(output: Tensor, x: Sequence[Tensor]) -> None:
    """Raise if the output is made of ``x`` by a function that is marked once differentiable."""
    if not _any_exist():
        return
    marked = [node for node in graph.nodes([output]) if _is_marked(getattr(node, "_forward_cls", None))]
    if not marked:
        return
    variables = {torch.autograd.graph.get_gradient_edge(leaf).node for leaf in x}
    for node in marked:
        if not variables.isdisjoint(graph.nodes([node])):
            name = node._forward_cls.__name__  # type: ignore[attr-defined]  # nodes of Python functions have it
            raise NoDerivativeError(
                f"The function cannot be differentiated twice: the backward of its torch.autograd.Function {name} is"
                " marked once_differentiable. Write that backward in differentiable operations, and take the mark off.",
                name,
                None,
            )


def _any_exist() -> bool:
    """Whether this process has such functions; the graph, which may be long, is looked through only then."""
    global _looked_at, _exist
    count = len(Function.__subclasses__())
    if count != _looked_at:
        _looked_at, _exist = count, any(map(_is_marked, _subclasses(Function)))
    return _exist


def _is_marked(function: type | None) -> bool:
    return getattr(getattr(function, "backward", None), "__code__", None) is _MARK


def _subclasses(function: type) -> Iterator[type]:
    subclasses: list[type] = function.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)
