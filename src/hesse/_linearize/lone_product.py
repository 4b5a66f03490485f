"""``LoneProduct``: the linearization of a point that is asked for one product."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hesse._autograd.thread_state import untraced
from hesse._base.errors import ClosedError
from hesse._base.precision import Autocast
from hesse._linearize import tape
from hesse._linearize.choice import EngineName
from hesse._linearize.protocol import Leaves, Linearization, Selection
from hesse._rules.scope import transform_level

if TYPE_CHECKING:
    from hesse._linearize.program.program import Program


class LoneProduct(Linearization):
    """A linearization whose first product is one program, which keeps nothing and computes no gradient.

    A second product, many at once, the outputs or the auxiliary output linearize by the program's two halves.

    Args:
        program: of a map whose products are by ``rmatvec``.
        inputs: the program's inputs at the point.
        linearize: linearizes at the same point by two halves.
        is_counted: whether products are counted: of those that a comparison makes, none is the first.
    """

    create_graph = False
    engine: EngineName = "compiled"
    batch_size: int | None = 16

    def __init__(
        self,
        program: Program,
        inputs: Sequence[Tensor],
        linearize: Callable[[], Linearization],
        *,
        is_counted: bool = True,
    ) -> None:
        self._program, self._linearize = program, linearize
        self._inputs: Sequence[Tensor] | None = inputs
        self._made: Linearization | None = None
        self.is_counted = is_counted
        # Whether the outputs are known by now, from the halves or from a comparison with the tape.
        self.is_evaluated = False
        self._autocast = Autocast.now()
        self._is_multiplied = False

    @property
    def is_linearized(self) -> bool:
        """Whether products are those of two halves by now."""
        return self._made is not None

    def linearized(self) -> Linearization:
        """The linearization by two halves."""
        if self._made is None:
            if self._inputs is None:
                raise ClosedError(tape.CLOSED)
            with self._autocast.again():
                made: Linearization = untraced(self._linearize)()
            # The tape where a comparison refused the halves.
            self._made, self._inputs, self.engine = made, None, made.engine
            self.is_evaluated = True
        return self._made

    @functools.cached_property
    def outputs(self) -> list[Tensor]:  # type: ignore[override]  # computed when they are read
        """Those of the two halves."""
        return self.linearized().outputs

    @functools.cached_property
    def aux(self) -> Any:
        """That of the two halves."""
        return self.linearized().aux

    @property
    def batch_price(self) -> float:
        """That of the two halves."""
        return self.linearized().batch_price

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J, by the one program where this is the first."""
        if batched or self._is_multiplied or self._made is not None or self._inputs is None:
            return self.linearized().rmatvec(cotangents, selection, batched=batched, last=last)
        if transform_level() is not None:
            tape.refuse_replay_inside_transform()
        vectors = dict(zip(selection.outputs, cotangents, strict=True))
        products: list[Tensor] = untraced(self._program.replay)("lone", self._inputs, vectors)
        self._is_multiplied = self.is_counted
        if last:
            self.close()
        return products if len(selection.inputs) == len(products) else [products[i] for i in selection.inputs]

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents, by the two halves."""
        return self.linearized().matvec(tangents, selection, batched=batched, last=last)

    def release_outputs(self) -> None:
        """Those of the two halves, if there are any."""
        if self._made is not None:
            self._made.release_outputs()

    def precision(self) -> torch.dtype | None:
        """Of its program."""
        return self._program.precision

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Nothing before there are two halves."""
        return 0 if self._made is None else self._made.kept_bytes(beside)

    def close(self) -> None:
        """Free what is kept."""
        self._inputs = None
        if self._made is not None:
            self._made.close()
