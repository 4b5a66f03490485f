"""How the halves of a captured graph are run: what a backend is, and those that need no compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hesse._linearize.program.capture import Graph
from hesse._linearize.program.passes.matrix_products import multiply_by_faster_library

aten = torch.ops.aten

Run = Callable[[list[Tensor]], Sequence[Tensor]]
"""A half: takes a list of tensors, which it empties or not, and returns the results."""


class Backend(NamedTuple):
    """How graphs are made fast: ``simplify`` a whole one in place, ``compile`` a half.

    Attributes:
        table: the operators that are written with others before, and how.
        fuses: whether elementwise operations are made together, so that what is cheap is rather computed again than
            kept.
        engine: the name of the engine that it makes.
    """

    simplify: Callable[[Graph, FakeTensorMode], Any]
    compile: Callable[[Graph, list[Tensor], FakeTensorMode], Run]
    table: Callable[[], dict[Any, Any]] = dict
    fuses: bool = True
    engine: Literal["captured", "compiled"] = "compiled"


def drop_what_does_nothing(graph: Graph, mode: FakeTensorMode) -> None:
    """Take out other names for the same tensor, and transposes of transposes."""
    for node in list(graph.graph.nodes):
        if node.target in (aten.alias.default, aten.detach.default):
            node.replace_all_uses_with(node.args[0])
        elif _transposes(node) and _transposes(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _transposes(node: Any) -> bool:
    """Whether it is the transpose of a matrix."""
    return node.target is aten.t.default or (node.target is aten.permute.default and node.args[1] == [1, 0])


def run_as_it_is(graph: Graph, inputs: list[Tensor], mode: FakeTensorMode) -> Run:
    """The graph, operator by operator."""
    return lambda given: graph(*given)


def run_with_faster_products(graph: Graph, inputs: list[Tensor], mode: FakeTensorMode) -> Run:
    """The graph, operator by operator, and products of matrices by the library that is the faster."""
    multiply_by_faster_library(graph)
    return run_as_it_is(graph, inputs, mode)


OPERATORS = Backend(drop_what_does_nothing, run_with_faster_products, fuses=False, engine="captured")
"""No compiler, which is had in a second: it leaves out what autograd's own work costs, and what is not wanted."""
