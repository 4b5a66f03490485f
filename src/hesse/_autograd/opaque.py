"""Refuse custom functions, and hooks, whose backward autograd cannot follow.

A backward that runs under ``no_grad``, calls kernels of its own or is marked ``once_differentiable`` returns gradients
without history. PyTorch takes their derivatives for zero, mostly without a word. A gradient :math:`J^\\top g` is linear
in :math:`g`, so one that has no history even where :math:`g` has is zero or wrong. The same holds for what a hook
makes of a gradient. A hook may also be followed in part, as that of a deep-equilibrium layer that adds the gradient to
what an inner solver made of it. What is homogeneous, :math:`h(2 g) = 2 h(g)`, is its own derivative along :math:`g`, by
Euler; where autograd says another, it does not follow all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from hesse._autograd import graph, hooks
from hesse._autograd.missing import MissingDerivative
from hesse._base.devices import widest
from hesse._base.several_ranks import is_dtensor
from hesse._rules.engine import wanted
from hesse._rules.scope import inside_transform

_CPP_NODE = "torch::autograd::CppNode<"
# What ``once_differentiable`` puts in the place of a history; autograd.grad never comes to it.
_MARK = "torch::autograd::Error"

# PyTorch's identity function that carries the backward hooks of modules.
_OF_MODULE_HOOKS = "BackwardHookFunction"

# Functions of hesse have rules' derivatives; those of torch.distributed see ``cut_history``.
_LOOKED_AT_ELSEWHERE = ("hesse.", "torch.distributed")

# Of a derivative along a gradient, in any precision.
_TOLERANCE = 0.02

# Types of nodes of PyTorch's own operators, as they are met.
_BUILT_IN: set[type] = set()


def watch(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[RemovableHandle]:
    """Until the handles are removed, a backward from ``outputs`` raises where it comes to an opaque function or hook.

    The backward must create a graph. Stand-ins without numbers are passed over.
    """
    if not outputs or isinstance(outputs[0], FakeTensor):
        return []
    if hooks.may_exist(inputs):
        # A node does not tell what hooks it has.
        return [handle for node in graph.nodes(outputs) for handle in _Watch(node, outputs[0]).handles()]
    others = [node for node in graph.nodes(outputs) if type(node) not in _BUILT_IN]
    return [_Watch(node, outputs[0]).handle() for node in others if _is_custom(node)]


def refuse_hooks_of_inputs(inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Refuse opaque hooks of the inputs themselves, whose nodes a backward does not come to."""
    for leaf, gradient in zip(inputs, gradients, strict=True):
        if not leaf._backward_hooks or gradient is None or isinstance(gradient, FakeTensor):
            continue
        for hook in leaf._backward_hooks.values():
            given = _variable_like(leaf, leaf)
            made = hook(given)

            def of_others(others: Sequence[Tensor | None], hook: Any = hook) -> list[Tensor | None]:
                return [hook(others[0])]

            if _is_opaque(made) or not _follows([given], [made], of_others):
                _refuse_hook()


def _is_custom(node: Node) -> bool:
    """Whether a node is of a torch.autograd.Function, in Python or in C++, that is not hesse's own."""
    kind = type(node)
    if kind in _BUILT_IN:
        return False
    function = _python_function(node)
    if function is not None:
        return not _is_looked_at_elsewhere(node)
    if graph.name_of(node).startswith(_CPP_NODE):
        return True
    if kind.__name__ != "CppFunction":  # the type of all nodes that have none of their own
        _BUILT_IN.add(kind)
    return False


def _is_looked_at_elsewhere(node: Node) -> bool:
    function = _python_function(node)
    return function is not None and function.__module__.startswith(_LOOKED_AT_ELSEWHERE)


class _Watch:
    """Looks at what a backward gives to a node, and at what it gets from it."""

    def __init__(self, node: Node, tracked: Tensor) -> None:
        self._node, self._tracked = node, tracked
        self._probing = False
        # While it is probed: the cotangents that are given, and what hooks make of them.
        self._given: list[Tensor | None] = []
        self._hooked: list[Tensor | None] = []

    def handle(self) -> RemovableHandle:
        """Watch the function that the node is of."""
        return self._node.register_hook(self._look)

    def handles(self) -> Iterator[RemovableHandle]:
        """Watch the hooks of the node as well."""
        if graph.is_accumulation(self._node) or _is_looked_at_elsewhere(self._node):
            return
        yield self._node.register_prehook(self._look_before)
        yield self.handle()

    def _look_before(self, cotangents: Sequence[Tensor | None]) -> None:
        if not torch.is_grad_enabled():
            return  # an inner gradient that is not differentiated
        if self._probing:
            self._hooked = list(cotangents)
            if any(map(_is_opaque, cotangents)):
                _refuse_hook()
            return
        if self._is_of_module_hooks() and not any(map(_is_cut, cotangents)):
            return  # they do nothing when they are called a second time
        places = range(len(self._node.next_functions))
        self._again(places, cotangents)
        given, hooked = self._given, self._hooked

        def of_others(others: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            self._again(places, others, others)
            return self._hooked

        if not _follows(given, hooked, of_others):
            _refuse_hook()

    def _look(self, results: Sequence[Tensor | None], cotangents: Sequence[Tensor | None]) -> None:
        if self._probing or not torch.is_grad_enabled() or not any(map(_is_cut, results)):
            return
        cut = [i for i, result in enumerate(results) if _is_cut(result)]
        if self._is_of_module_hooks():
            # They do nothing when they are called a second time, and the function is the identity.
            if not any(map(_is_cut, cotangents)):
                _refuse_hook()
            return
        # A derivative that is zero, such as that of a step function, needs no history.
        opaque = [entry for entry in self._again(cut, cotangents) if _is_opaque(entry)]
        if opaque and _is_custom(self._node):
            _refuse(_name(self._node), any(entry.requires_grad for entry in opaque))
        if opaque:
            _refuse_hook()

    def _is_of_module_hooks(self) -> bool:
        return _python_function(self._node) is not None and _name(self._node) == _OF_MODULE_HOOKS

    def _again(
        self,
        places: Iterable[int],
        cotangents: Sequence[Tensor | None],
        given: Sequence[Tensor | None] | None = None,
    ) -> list[Tensor]:
        """Results in those of the places that are followed, for cotangents with history that are not zero.

        Those at hand may be constants or zero.
        """
        self._given = self._hooked = []
        follow = wanted(self._node)
        # Those that are followed lead somewhere.
        edges = cast("Sequence[tuple[Node, int]]", self._node.next_functions)
        followed = [GradientEdge(*edges[i]) for i in places if follow[i]]
        if not followed:
            return []
        if any(is_dtensor(cotangent) for cotangent in cotangents if cotangent is not None):
            return []  # those are looked at where DTensors are made: see ``cut_history``
        if given is None:
            given = [entry if entry is None else _variable_like(entry, self._tracked) for entry in cotangents]
        pairs = [(GradientEdge(self._node, i), entry) for i, entry in enumerate(given) if entry is not None]
        self._probing, self._given = True, list(given)
        try:
            found = torch.autograd.grad(
                [edge for edge, _ in pairs],
                followed,
                [entry for _, entry in pairs],
                create_graph=True,
                allow_unused=True,
            )
        finally:
            self._probing = False
        return [entry for entry in found if entry is not None]


def _is_cut(result: Tensor | None) -> bool:
    if not isinstance(result, Tensor):
        return False
    return not result.requires_grad or (result.grad_fn is not None and graph.name_of(result.grad_fn) == _MARK)


def _is_opaque(result: Tensor | None) -> bool:
    """Whether a result has no history and is not zero, as the derivative of a step function is."""
    return result is not None and _is_cut(result) and _is_nonzero(result)


def _follows(
    given: Sequence[Tensor | None],
    made: Sequence[Tensor | None],
    again: Callable[[Sequence[Tensor | None]], Sequence[Tensor | None]],
) -> bool:
    """Whether autograd follows all that hooks make of the cotangents given; ``again`` makes it of others."""
    changed = [i for i, (entry, before) in enumerate(zip(made, given, strict=False)) if entry is not before]
    pairs = [(i, entry) for i in changed if (entry := made[i]) is not None and not _is_cut(entry)]
    if not pairs or inside_transform() or pairs[0][1].is_meta:
        return True
    variables = [entry for entry in given if entry is not None]
    weights = [entry.detach() for _, entry in pairs]
    slopes = torch.autograd.grad(
        [entry for _, entry in pairs], variables, weights, retain_graph=True, allow_unused=True
    )
    with torch.enable_grad():
        twice = again([entry if entry is None else (2 * entry.detach()).requires_grad_() for entry in given])
    along = sum(_dot(slope, entry) for slope, entry in zip(slopes, variables, strict=True) if slope is not None)
    square = sum(map(_dot, weights, weights))
    doubled = sum(_dot(weight, cast(Tensor, twice[i]).detach()) for weight, (i, _) in zip(weights, pairs, strict=True))
    defect, bend = abs(along - square), abs(doubled - 2 * square)
    return not defect > max(_TOLERANCE * square, 10 * bend)


def _dot(x: Tensor, y: Tensor) -> float:
    product = x.detach().conj() * y.detach()
    return float((product.real if product.is_complex() else product).sum(dtype=widest(x.device)))


def _variable_like(cotangent: Tensor, tracked: Tensor) -> Tensor:
    """Irregular numbers that autograd follows; not drawn, since a function that is batched may not draw."""
    shape, device = cotangent.shape, cotangent.device
    angles = torch.arange(1, math.prod(shape) + 1, dtype=widest(device), device=device).reshape(shape)
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


def _refuse_hook() -> None:
    raise MissingDerivative(
        "register_hook",
        "a product needs the derivative of a backward, and a hook, of a tensor or of a module's backward, makes of the"
        " gradient what autograd does not follow, so it would count as zero",
        "Write that hook in operations that autograd follows, without no_grad, detach or an inner gradient without"
        " create_graph=True; or leave it out.",
    )
