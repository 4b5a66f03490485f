"""``CompiledLinearization``: a point whose products replay a program's second half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hesse._autograd.gradients import memory_of
from hesse._autograd.thread_state import untraced
from hesse._base.errors import ClosedError
from hesse._linearize import tape
from hesse._linearize.choice import EngineName
from hesse._linearize.protocol import Direction, Leaves, Linearization, Selection
from hesse._rules.scope import transform_level

if TYPE_CHECKING:
    from hesse._linearize.program.program import Program, Start


class CompiledLinearization(Linearization):
    """A linearization that replays a program."""

    create_graph = False
    engine: EngineName = "compiled"
    batch_size: int | None = 16

    def __init__(self, program: Program, start: Start) -> None:
        self.outputs, self.aux = start.outputs, start.aux
        self._program = program
        self._kept: list[Tensor] | None = start.kept

    @property
    def batch_price(self) -> float:
        """What compiling the program has taken: one for many vectors takes as long, or a few times as long."""
        return 0.0 if self._program.has_batched else self._program.price

    def release_outputs(self) -> None:
        """Products read none."""
        self.outputs = []

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J, by the replay half."""
        products = self._multiply("rmatvec", cotangents, selection.outputs, selection.inputs, batched)
        if last:
            self.close()
        return products

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents, by the replay half of the double-backward trick."""
        return self._multiply("matvec", tangents, selection.inputs, selection.outputs, batched)

    def _multiply(
        self, direction: Direction, vectors: Leaves, given: Sequence[int], wanted: Sequence[int], batched: bool
    ) -> list[Tensor]:
        if transform_level() is not None:
            tape.refuse_replay_inside_transform()
        if self._kept is None:
            raise ClosedError(tape.CLOSED)
        by_position = dict(zip(given, vectors, strict=True))
        count = len(vectors[0]) if batched else None
        products: list[Tensor] = untraced(self._program.replay)(direction, self._kept, by_position, count)
        # Positions ascend, so as many as there are means all of them.
        return products if len(wanted) == len(products) else [products[i] for i in wanted]

    def release(self) -> list[Tensor]:
        """Give what is kept to the caller; products need it back, see :meth:`regain`."""
        kept, self._kept = self._kept or [], None
        return kept

    def regain(self, kept: list[Tensor]) -> None:
        """Take back what was released."""
        self._kept = kept

    def shared_with(self, tensors: Leaves) -> list[Tensor]:
        """Those of the tensors whose memory is kept for replays: products are right while these do not change."""
        kept = {memory_of(tensor) for tensor in self._kept or ()}
        return [tensor for tensor in tensors if memory_of(tensor) in kept]

    def precision(self) -> torch.dtype | None:
        """Of its program."""
        return self._program.precision

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes of all distinct memory that is kept for replays."""
        others = {memory_of(tensor) for tensor in beside}
        memories = {memory_of(tensor): tensor.untyped_storage().nbytes() for tensor in self._kept or ()}
        return sum(size for memory, size in memories.items() if memory not in others)

    def close(self) -> None:
        """Free what is kept; the program stays for other points."""
        self._kept = None
