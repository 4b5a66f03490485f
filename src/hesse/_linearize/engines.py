"""The engines by name, and a choice of how products are made that can be printed and given back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from hesse._linearize import tape
from hesse._linearize.automatic import Auto
from hesse._linearize.compiled import Compiled, Shared
from hesse._linearize.ladder import Candidate, W
from hesse._linearize.protocol import Direction, Leaves, Linearization, Map

# What these engines take at most to be made, in seconds: at any rate, and for each node of the gradient's graph. Two
# cores were measured to take 0.6 s and 2.6 s for 41 nodes, 2.6 s and 38 s for 185 of a convolutional network.
CAPTURED_PRICE, COMPILED_PRICE = (0.7, 0.01), (4.0, 0.25)

Name = Literal["tape", "captured", "compiled", "auto"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """How products are made, without any measurement: what ``explain().choice`` says, given back as ``engine=``.

    Attributes:
        engine: "tape", "captured" or "compiled".
        batching: "loop" multiplies many vectors one by one, "vmap" in batches.
        chunk: vectors in a batch.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**3).sum(), torch.ones(2))
        >>> H.explain().choice
        Choice(engine='tape', batching='loop', chunk=1)
        >>> hesse.Hessian(lambda x: (x**3).sum(), torch.ones(2), engine=H.explain().choice) @ torch.ones(2)
        tensor([6., 6.])
    """

    engine: Literal["tape", "captured", "compiled"] = "tape"
    batching: Literal["loop", "vmap"] = "loop"
    chunk: int = 1

    def __post_init__(self) -> None:
        if (
            self.engine not in ("tape", "captured", "compiled")
            or self.batching not in ("loop", "vmap")
            or self.chunk < 1
        ):
            raise ValueError(
                'A Choice needs engine "tape", "captured" or "compiled", batching "loop" or "vmap" and a chunk of at'
                f" least 1 but got {self.engine!r}, {self.batching!r} and {self.chunk!r}."
            )


class Taped:
    """The tape as an engine: nothing is kept from one point to the next."""

    programs = ()
    seconds = 0.0
    refusal = None
    reason = "as asked for"

    def __init__(self, create_graph: bool) -> None:
        self._create_graph = create_graph

    def linearize(
        self, map: Map, point: Leaves, arguments: Any, *, name: str, shared: Shared | None = None
    ) -> Linearization:
        """See :func:`hesse._linearize.tape.linearize`."""
        return tape.linearize(map, point, create_graph=self._create_graph, name=name)


Engine = Taped | Compiled | Auto


def engine_by_name(
    name: Name | Choice | Engine,
    func: Any,
    *,
    directions: tuple[Direction, ...],
    create_graph: bool,
    verify: bool,
    expect: int | None,
    most_kept: int | None = None,
) -> Engine:
    """The engine of that name, for one function; an engine itself is one that another point has used before."""
    if isinstance(name, Engine):
        return name
    if expect is not None and expect < 0:
        raise ValueError(f"expect should be a number of products but is {expect!r}.")
    if name == "auto" and not create_graph:
        ways = candidates(
            lambda way: Compiled(func, directions, verify=verify, or_tape=True, engine=way, most_kept=most_kept)
        )
        return Auto(ways, expect or 0, most_kept)
    plain = name.engine if isinstance(name, Choice) else name
    return plain_engine(
        plain, func, directions=directions, create_graph=create_graph, verify=verify, most_kept=most_kept
    )


def plain_engine(
    name: Name,
    func: Any,
    *,
    directions: tuple[Direction, ...],
    create_graph: bool,
    verify: bool,
    most_kept: int | None = None,
) -> Taped | Compiled:
    """The engine of that name, from the first product on; "auto" for products that are differentiated is the tape.

    ``func`` is the function, or what else reaches all that a map reads.
    """
    if name not in get_args(Name):
        raise ValueError(f'engine should be "tape", "captured", "compiled" or "auto" but is {name!r}.')
    if name == "tape" or (name == "auto" and create_graph):
        return Taped(create_graph)
    if create_graph:
        raise ValueError('create_graph=True needs engine="tape": the products of a program are not differentiable.')
    engine: Literal["captured", "compiled"] = "captured" if name == "captured" else "compiled"
    return Compiled(func, directions, verify=verify, engine=engine, most_kept=most_kept)


def candidates(make: Callable[[Literal["captured", "compiled"]], W]) -> list[Candidate[W]]:
    """What ``engine="auto"`` may try, the cheapest first."""
    return [Candidate(make("captured"), *CAPTURED_PRICE), Candidate(make("compiled"), *COMPILED_PRICE)]
