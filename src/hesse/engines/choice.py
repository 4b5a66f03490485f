"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from hesse.engines import tape
from hesse.engines.compiled import Compiled
from hesse.engines.linearization import Leaves, Linearization, Map

Name = Literal["tape", "compiled", "auto"]


class Taped:
    """The tape as an engine: nothing is kept from one point to the next."""

    programs = ()
    seconds = 0.0
    refusal = None

    def __init__(self, create_graph: bool) -> None:
        self._create_graph = create_graph

    def linearize(self, map: Map, point: Leaves, arguments: Any, *, name: str) -> Linearization:
        """See :func:`hesse.engines.tape.linearize`."""
        return tape.linearize(map, point, create_graph=self._create_graph, name=name)


Engine = Taped | Compiled


def engine_by_name(
    name: Name | Engine,
    func: Callable[..., Any],
    *,
    directions: tuple[Literal["rmatvec", "matvec"], ...],
    create_graph: bool,
    verify: bool,
) -> Engine:
    """The engine of that name, for one function; an engine itself is one that another point has used before."""
    if isinstance(name, Taped | Compiled):
        return name
    if name not in get_args(Name):
        raise ValueError(f'engine should be "tape", "compiled" or "auto" but is {name!r}.')
    if name == "tape" or (name == "auto" and create_graph):
        return Taped(create_graph)
    if create_graph:
        raise ValueError('create_graph=True needs engine="tape": the products of a program are not differentiable.')
    return Compiled(func, directions, verify=verify, or_tape=name == "auto")
