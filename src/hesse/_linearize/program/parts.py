"""What a program is made of: what a capture finds out, or what was saved of an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from hesse._linearize.program.surroundings import Layout
from hesse._linearize.protocol import Direction

if TYPE_CHECKING:
    from hesse._linearize.program.graph import Graph
    from hesse._linearize.program.known_values import Recipe
    from hesse._linearize.program.stored_graph import StoredGraph

Which = Direction | Literal["lone"]
"""A direction's products, or a lone product."""


class Replay(NamedTuple):
    """The graph of one direction's products.

    Attributes:
        graph: takes kept tensors, then vectors.
        kept: positions of its inputs among the tensors that the first half keeps.
        vectors: positions of its inputs among the vectors.
        stand_ins: those of the vectors, of which shape, dtype and device are read.
    """

    graph: Graph | StoredGraph
    kept: list[int]
    vectors: list[int]
    stand_ins: list[Tensor]


class Parts(NamedTuple):
    """All that a program needs beside what runs its halves.

    Attributes:
        first: the graph of the first half.
        replays: the graphs of products.
        names: all names of each tensor that the function reaches, by its identity in the capture.
        captured: names of the captured tensors that the first half takes.
        layouts: of the point's leaves and the captured tensors.
        constants: tensors that the function makes of Python numbers, and known values.
        known: how to compute the known values, if there are any.
        positions: of each constant its position among the known values, or None.
        expected: what is taken for granted about known values.
        variables: positions in the point of what the products are by.
        followed: names of the captured tensors that the products are by beside them.
        reached: for each output, the positions of the products that it is connected to, where products are by
            what requires gradients.
        changed: positions among the inputs of tensors that the function changes in place.
        num_added: results for the replay that come before the map's own.
        num_first: how many of the map's results do not depend on vectors.
        num_outputs: how many of these are outputs of the map.
        rebuild_aux: makes the auxiliary output from its tensors.
        has_exception: whether a result says that a rule is missing at a point.
        draws: names of the operators by which the function draws random numbers.
        precision: the dtype with the coarsest rounding of all that is computed in.
    """

    first: Graph | StoredGraph
    replays: dict[Which, Replay]
    names: dict[int, tuple[str, ...]]
    captured: list[tuple[str, ...]]
    layouts: list[Layout]
    constants: list[Tensor]
    known: Recipe | None
    positions: list[int | None]
    expected: list[Any]
    variables: tuple[int, ...]
    followed: list[tuple[str, ...]]
    reached: list[set[int]]
    changed: list[int]
    num_added: int
    num_first: int
    num_outputs: int
    rebuild_aux: Callable[[Sequence[Tensor]], Any]
    has_exception: bool
    draws: list[str]
    precision: torch.dtype
