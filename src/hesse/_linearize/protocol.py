"""What an engine gives: a map evaluated once at a point, to be multiplied by many vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hesse._linearize.choice import EngineName

Direction = Literal["rmatvec", "matvec"]
"""Which product of a linearization: cotangentsᵀ · J, or J · tangents."""

Leaves = Sequence[Tensor]

Map = Callable[[tuple[Tensor, ...]], tuple[Leaves, Any]]
"""A differentiable map of leaves to (leaves, auxiliary output)."""


class Selection(NamedTuple):
    """Which outputs and which inputs of a map take part in a product, by their positions in flat order."""

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


class Sources(NamedTuple):
    """What cotangents are pulled back to, where not to the whole point: leaves of it by position, captured tensors."""

    variables: tuple[int, ...]
    captured: Leaves


class Linearization(Protocol):
    r"""The Jacobian :math:`J` of a map at a point, without the matrix; made by an engine's ``linearize``.

    Attributes:
        outputs: the map's leaves at the point.
        aux: what the map returned beside them.
        engine: the engine's name.
        create_graph: whether products are differentiable.
        batch_size: how many vectors can be multiplied at once, where only so many can be; None for any number.
    """

    create_graph: bool
    batch_size: int | None
    outputs: list[Tensor]
    aux: Any
    engine: EngineName

    @property
    def batch_price(self) -> float:
        """Seconds that the first batch is expected to take beside its products."""

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents over the selected inputs, for the selected outputs; ``batched``: one vector a row.

        After the ``last`` one there is no other in this direction: what only these need is freed on the way.
        """

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J over the selected outputs, for the selected inputs.

        After the ``last`` one there is none in either direction: all is freed on the way, and this is closed.
        """

    def release_outputs(self) -> None:
        """Let go of the outputs' values, which no one reads any more; products need their place in the graph alone."""

    def precision(self) -> torch.dtype | None:
        """The floating-point type that rounds most on the way to a product, as far as it is known."""

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes kept alive for the products, captured tensors' own memory included, that of ``beside`` not."""

    def close(self) -> None:
        """Free everything kept for products."""
