"""Refuse custom functions whose backward autograd cannot follow.

A backward that runs under ``no_grad``, calls kernels of its own or is marked ``once_differentiable`` returns gradients
without history. PyTorch takes their derivatives for zero, mostly without a word. A gradient :math:`J^\\top g` is linear
in :math:`g`, so one that has no history even where :math:`g` has is zero or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from hesse._autograd import graph
from hesse._autograd.missing import MissingDerivative
from hesse._rules.engine import wanted
from hesse._rules.scope import inside_transform

_CPP_NODE = "torch::autograd::CppNode<"
# What ``once_differentiable`` puts in the place of a history; autograd.grad never comes to it.
_MARK = "torch::autograd::Error"

# Functions of hesse have rules' derivatives; those of torch.distributed see ``cut_history``.
_LOOKED_AT_ELSEWHERE = ("hesse.", "torch.distributed")

# Types of nodes of PyTorch's own operators, as they are met.
_BUILT_IN: set[type] = set()


def watch(outputs: Sequence[Tensor]) -> list[RemovableHandle]:
    """Until the handles are removed, a backward from ``outputs`` raises where it comes to an opaque function.

    The backward must create a graph. Stand-ins without numbers are passed over.
    """
    if not outputs or isinstance(outputs[0], FakeTensor):
        return []
    return [_watched(node, outputs[0]) for node in graph.nodes(outputs) if _is_custom(node)]


def _is_custom(node: Node) -> bool:
    """Whether a node is of a torch.autograd.Function, in Python or in C++, that is not hesse's own."""
    kind = type(node)
    if kind in _BUILT_IN:
        return False
    function = _python_function(node)
    if function is not None:
        return not function.__module__.startswith(_LOOKED_AT_ELSEWHERE)
    if graph.name_of(node).startswith(_CPP_NODE):
        return True
    if kind.__name__ != "CppFunction":  # the type of all nodes that have none of their own
        _BUILT_IN.add(kind)
    return False


def _watched(node: Node, tracked: Tensor) -> RemovableHandle:
    probing = False

    def look(results: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]) -> None:
        nonlocal probing
        if probing or not any(map(_is_cut, results)):
            return
        follow = wanted(node)
        cut = [i for i, result in enumerate(results) if follow[i] and _is_cut(result)]
        probing = True
        try:
            again = _other_results(node, cut, cotangents, tracked) if cut else []
        finally:
            probing = False
        # A derivative that is zero, such as that of a step function, needs no history.
        opaque = [entry for entry in again if _is_cut(entry) and _is_nonzero(entry)]
        if opaque:
            _refuse(_name(node), any(entry.requires_grad for entry in opaque))

    return node.register_hook(look)


def _is_cut(result: Tensor | None) -> bool:
    if not isinstance(result, Tensor):
        return False
    return not result.requires_grad or (result.grad_fn is not None and graph.name_of(result.grad_fn) == _MARK)


def _other_results(
    node: Node, places: Sequence[int], cotangents: Sequence[Tensor | None], tracked: Tensor
) -> list[Tensor]:
    """Results of a node for cotangents with history that are not zero, as those at hand may be constants or zero."""
    # Those that are followed lead somewhere.
    edges = cast("Sequence[tuple[Node, int]]", node.next_functions)
    given = [(i, cotangent) for i, cotangent in enumerate(cotangents) if cotangent is not None]
    found = torch.autograd.grad(
        [GradientEdge(node, i) for i, _ in given],
        [GradientEdge(*edges[i]) for i in places],
        [_variable_like(cotangent, tracked) for _, cotangent in given],
        create_graph=True,
        allow_unused=True,
    )
    return [entry for entry in found if entry is not None]


def _variable_like(cotangent: Tensor, tracked: Tensor) -> Tensor:
    """Irregular numbers that autograd follows; not drawn, since a function that is batched may not draw."""
    shape, device = cotangent.shape, cotangent.device
    angles = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64, device=device).reshape(shape)
    values = angles.cos().to(cotangent.dtype)
    if not inside_transform():
        return values.requires_grad_()
    # Factories make untracked tensors inside a transform; a selection from a tracked one is tracked.
    return torch.where(torch.ones_like(values, dtype=torch.bool), values, tracked.sum().to(values.dtype))


def _is_nonzero(entry: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(entry):
        entry = torch._C._functorch.get_unwrapped(entry)
    return bool((entry if entry.layout is torch.strided else entry.to_dense()).any())


def _python_function(node: Any) -> type | None:
    """The torch.autograd.Function that a node is of; None of one in C++."""
    function: type | None = getattr(node, "_forward_cls", None)
    return function


def _name(node: Node) -> str:
    function = _python_function(node)
    if function is not None:
        # Inside a transform a function is one that torch.func has made of the user's.
        return function.__name__.removesuffix("Generated")
    return graph.name_of(node).removeprefix(_CPP_NODE).removesuffix(">")


def _refuse(name: str, is_marked: bool) -> None:
    what = f"a product needs the derivative of a backward, and that of the torch.autograd.Function {name}"
    if is_marked:
        raise MissingDerivative(
            name,
            f"{what} is marked once_differentiable",
            "Write that backward in differentiable operations, and take the mark off.",
        )
    raise MissingDerivative(
        name,
        f"{what} computes what autograd does not follow, so it would count as zero",
        "Write that backward in operations that autograd follows, without no_grad, detach or an inner gradient without"
        " create_graph=True, or as a torch.autograd.Function that has a backward itself.",
    )
