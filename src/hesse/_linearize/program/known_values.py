"""Values that depend on captured tensors alone, such as whether a mask holds a False or where its entries are True.

A program has no values: an operator that reads one, or whose result has a shape that depends on one, cannot be in it.
Where all tensors that the operator takes come from captured ones, it runs on those while the program is made. Numbers
become parts of the program, tensors become inputs of it. At every further point the same operators run again, and the
program serves where they give the same numbers and shapes.

What is written into is known only where all that is written is, and never where a captured tensor's memory is changed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

# The type of an operator has no public name.
from torch._ops import OpOverload
from torch.fx.node import map_aggregate

# Private: runs operators outside of the modes that record stand-ins.
from torch.utils._python_dispatch import _disable_current_modes

from hesse._base import trees
from hesse._linearize.program.randomness import draws
from hesse._linearize.program.surroundings import layout, token
from hesse._linearize.program.undisturbed import undisturbed

aten = torch.ops.aten

_VALUE_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class _Unknown(Exception):
    """A tensor does not come of captured tensors alone."""


class Recipe(NamedTuple):
    """Operators that compute known values.

    Attributes:
        compute: returns the values.
        inputs: of ``compute``: identities of captured tensors, and constants.
        writes: whether operators write into tensors.
    """

    compute: fx.GraphModule
    inputs: list[int | Tensor]
    writes: bool

    def values(self, captured: Callable[[int], Tensor | None]) -> list[Any]:
        """The values for these captured tensors; none where one is missing, or an operator raises."""
        given = [entry if isinstance(entry, Tensor) else captured(entry) for entry in self.inputs]
        tensors = [tensor.clone() if self.writes else tensor.detach() for tensor in given if tensor is not None]
        if len(tensors) < len(given):
            return []
        try:
            with undisturbed():
                # Called itself, a module of torch.fx prints what it raises.
                return list(self.compute.forward(*tensors))
        except Exception:
            # What was recorded for other shapes may raise anything: the values are others, and so is the program.
            return []


class KnownValues:
    """Records the operators that take captured tensors alone, and runs them where one reads values.

    Args:
        captured: the real tensors, by identity.
        stand_ins: their stand-ins.

    Attributes:
        values: that were read. The recorded function takes the tensors among them for constants.
    """

    def __init__(self, captured: dict[int, Tensor], stand_ins: dict[int, Tensor]) -> None:
        self._captured = captured
        self._keys = {id(stand_in): key for key, stand_in in stand_ins.items()}
        self._graph = fx.Graph()
        # Nodes of known stand-ins, which are kept alive so that their identities stay theirs, and their memories.
        self._nodes: dict[int, tuple[fx.Node, Any, Any]] = {}
        self._memories = {_memory(stand_in) for stand_in in stand_ins.values()}
        self._changed: set[Any] = set()
        self._inputs: dict[fx.Node, int | Tensor] = {}
        self._writing: list[fx.Node] = []
        self._reads: list[fx.Node] = []
        self.values: list[Any] = []

    def is_known(self, stand_in: Tensor) -> bool:
        """Whether a stand-in comes of captured tensors alone."""
        memory = _memory(stand_in)
        if memory in self._changed:
            return False
        if id(stand_in) in self._nodes:
            # Assigning to ``data`` gives it another memory.
            return bool(self._nodes[id(stand_in)][2] == memory)
        return id(stand_in) in self._keys and memory in self._memories

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Take note of an operator that was applied to stand-ins."""
        if func is aten.lift_fresh.default:
            self._set(result, self._input(args[0]))
            return
        node = self._call(func, args, kwargs)
        written = {_memory(tensor) for tensor in _written(func, args, kwargs)}
        if node is None or written & self._memories:
            self._changed |= written
            return
        if written:
            self._writing.append(node)
        for entry, made in self._entries(node, result):
            self._set(entry, made)

    def read(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operator that reads values: numbers, or new stand-ins; None where they are not known."""
        if not isinstance(func, OpOverload) or _VALUE_DEPENDENT.isdisjoint(func.tags):
            return None
        if _written(func, args, kwargs) or (node := self._call(func, args, kwargs)) is None:
            return None
        with _disable_current_modes():
            results = self._recipe([node]).values(self._captured.get)
        if not results:
            return None
        (result,) = results
        found = []
        for value, made in self._entries(node, result):
            self._reads.append(made)
            self.values.append(value)
            if isinstance(value, Tensor):
                value = aten.lift_fresh.default(value)
                # What is written into it later is no part of what was read.
                self._set(value, self._graph.call_function(aten.clone.default, (made,)))
            found.append(value)
        return type(result)(found) if isinstance(result, list | tuple) else found[0]

    def recipe(self) -> Recipe | None:
        """How to compute the values that were read; None if none was."""
        return self._recipe(self._reads) if self._reads else None

    def _entries(self, node: fx.Node, result: Any) -> list[tuple[Any, fx.Node]]:
        """The parts of a node's result, and their nodes."""
        if not isinstance(result, list | tuple):
            return [(result, node)]
        return [(entry, self._graph.call_function(operator.getitem, (node, i))) for i, entry in enumerate(result)]

    def _set(self, entry: Any, node: fx.Node) -> None:
        if isinstance(entry, Tensor):
            self._nodes[id(entry)] = node, entry, _memory(entry)

    def _call(self, func: Any, args: Any, kwargs: Any) -> fx.Node | None:
        if not isinstance(func, OpOverload) or draws(func, args, kwargs):
            return None
        try:
            return self._graph.call_function(func, *map_aggregate((args, kwargs), self._node))
        except _Unknown:
            return None

    def _node(self, entry: Any) -> Any:
        if not isinstance(entry, Tensor):
            return entry
        if not self.is_known(entry):
            raise _Unknown
        if id(entry) not in self._nodes:
            self._set(entry, self._input(self._keys[id(entry)]))
        return self._nodes[id(entry)][0]

    def _input(self, entry: int | Tensor) -> fx.Node:
        node = self._graph.placeholder(f"input_{len(self._inputs)}")
        self._inputs[node] = entry
        return node

    def _recipe(self, results: Sequence[fx.Node]) -> Recipe:
        needed: set[fx.Node] = set()
        waiting = [*results, *self._writing]
        while waiting:
            if (node := waiting.pop()) not in needed:
                needed.add(node)
                waiting += node.all_input_nodes
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self._graph.nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output([copies[node] for node in results])
        inputs = [entry for node, entry in self._inputs.items() if node in needed]
        return Recipe(fx.GraphModule(torch.nn.Module(), graph), inputs, bool(self._writing))


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operator writes into, or may write into."""
    if not isinstance(func, OpOverload):  # one that takes functions
        return _tensors((args, kwargs))
    given = zip(func._schema.arguments, args, strict=False)
    named = {argument.name: argument for argument in func._schema.arguments}
    pairs = [*given, *[(named[name], value) for name, value in kwargs.items()]]
    return _tensors([value for argument, value in pairs if _is_written(argument)])


def _is_written(argument: Any) -> bool:
    # The statistics of normalizations change without a mark.
    return bool(argument.alias_info and argument.alias_info.is_write) or argument.name.startswith("running_")


def _memory(tensor: Tensor) -> int:
    """Which memory a stand-in's would be; of a sparse one, which has none of its own, itself."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in trees.leaves(tree) if isinstance(leaf, Tensor)]


def identifying(values: Sequence[Any]) -> list[Any]:
    """What a program takes for granted about known values: numbers, and the layouts of tensors."""
    return [layout(value) if isinstance(value, Tensor) else token(value) for value in values]
