"""Refuse functions of the user's whose backward is marked once differentiable.

PyTorch raises for them only where a gradient flows back into such a backward; a gradient that starts there, or behind
linear operations, is taken for a constant, and its derivative for zero.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hesse._autograd import graph
from hesse._base.errors import NoDerivativeError

# Every backward with the mark is this code around the user's.
_MARK = once_differentiable(lambda ctx: None).__code__

_looked_at = 0
_exist = False


@contextlib.contextmanager
def refused(output: Tensor) -> Iterator[None]:
    """Within, a backward from ``output`` that comes to a function marked once differentiable raises there."""
    handles = [
        node.register_prehook(_refusal(node._forward_cls.__name__))  # type: ignore[attr-defined]  # Python's have it
        for node in graph.nodes([output])
        if _is_marked(getattr(node, "_forward_cls", None))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def any_exist() -> bool:
    """Whether this process has such functions; the graph, which may be long, is looked through only then."""
    global _looked_at, _exist
    count = len(Function.__subclasses__())
    if count != _looked_at:
        _looked_at, _exist = count, any(map(_is_marked, _subclasses(Function)))
    return _exist


def _refusal(name: str) -> Any:
    def refuse(cotangents: tuple[Tensor, ...]) -> None:
        raise NoDerivativeError(
            f"The function cannot be differentiated twice: the backward of its torch.autograd.Function {name} is marked"
            " once_differentiable. Write that backward in differentiable operations, and take the mark off.",
            name,
            None,
        )

    return refuse


def _is_marked(function: type | None) -> bool:
    return getattr(getattr(function, "backward", None), "__code__", None) is _MARK


def _subclasses(function: type) -> Iterator[type]:
    subclasses: list[type] = function.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)
