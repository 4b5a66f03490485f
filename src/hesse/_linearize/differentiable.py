"""Programs whose outputs autograd follows: their backward is one more program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.reading import Reading
from hesse._autograd.thread_state import untraced
from hesse._base.devices import generator_states
from hesse._base.errors import CaptureError, warn_caller
from hesse._linearize import tape
from hesse._linearize.comparison import expected_products
from hesse._linearize.compiled import PROGRAMS, Compiled
from hesse._linearize.compiled_linearization import CompiledLinearization
from hesse._linearize.options import Verify
from hesse._linearize.protocol import Leaves, Linearization, Map, Selection


class Differentiable(Compiled):
    """Evaluates maps of one function by programs, whose outputs are differentiable once.

    They are so by the leaves of the point and the captured tensors that require gradients.

    Args:
        func: the user's function, which reaches all that a map reads beside its arguments.
        name: what errors call the entry that the function was given to.
        verify: as for :class:`Compiled`.
    """

    def __init__(self, func: Any, name: str, *, verify: Verify) -> None:
        super().__init__(Reading(func), ("rmatvec",), verify=verify)
        self._follows, self._name, self._warned = True, name, False

    def evaluate(self, map: Map, point: Leaves, arguments: Any) -> tuple[list[Tensor], Any] | None:
        """The outputs of ``map`` at ``point`` and its auxiliary output; None where there are programs enough already.

        Raises:
            CaptureError: there is no program for the function.
        """
        evaluated: tuple[list[Tensor], Any] | None = untraced(self._evaluate)(map, point, arguments)
        return evaluated

    def _evaluate(self, map: Map, point: Leaves, arguments: Any) -> tuple[list[Tensor], Any] | None:
        surroundings = self._surroundings(arguments, point)
        try:
            serving = self._serving(point, surroundings)
            if serving is None and len(self.programs) == PROGRAMS:
                if not self._warned:
                    self._warned = True
                    warn_caller(
                        f"The function given to {self._name} has been compiled for {PROGRAMS} layouts of its arguments,"
                        " so others are evaluated without a program. Pad the arguments to a few shapes."
                    )
                return None
            program, inputs = serving or self._new_program(map, point, surroundings, None)
            sources = program.sources(surroundings)
            followed = [*[point[i] for i in sources.variables], *sources.captured]
            ours: Linearization | None
            reference: Linearization | None = None
            if self._is_due(program, "halves"):
                before = program.with_copies(inputs)
                states = generator_states() if program.draws else {}
                reference = tape.linearize(map, point, name=self._name, sources=sources)
                expected = expected_products(reference, self._directions, followed)
                ours = self._checked(program, before, states, reference, expected, followed)
            else:
                ours = self._trusted(program, inputs)
                program.points["halves"] += ours is not None
        except CaptureError as error:
            raise CaptureError(
                f'{self._name} with engine="compiled" cannot take this function: {error}. Use engine="tape".'
            ) from error
        if ours is None:
            ours = self._exception(reference or tape.linearize(map, point, name=self._name, sources=sources))
        shared = ours.shared_with(inputs) if isinstance(ours, CompiledLinearization) else []
        outputs = _Evaluation.apply(  # type: ignore[no-untyped-call]  # PyTorch's has no types
            ours, self._name, program.parts.reached, followed, *followed, *shared
        )
        return list(outputs), ours.aux


class _Evaluation(torch.autograd.Function):
    """The outputs of a linearization, connected to what it is pulled back to."""

    @staticmethod
    def forward(
        ctx: Any,
        linearization: Linearization,
        name: str,
        reached: Sequence[set[int]],
        followed: Sequence[Tensor],
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.linearization, ctx.name, ctx.num_tensors = linearization, name, len(tensors)
        ctx.reached = reached
        ctx.set_materialize_grads(False)
        ctx.num_followed = len(followed)
        # Autograd notices where one of these has changed before the backward, and frees what is kept after it.
        kept = linearization.release() if isinstance(linearization, CompiledLinearization) else []
        ctx.save_for_backward(*tensors, *kept)
        # A view could not be changed in place.
        return tuple([output.clone() if output._is_view() else output for output in linearization.outputs])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        followed = saved[: ctx.num_followed]
        given = {i: cotangent for i, cotangent in enumerate(cotangents) if cotangent is not None}
        selection = Selection(tuple(given), tuple(range(len(followed))))
        linearization = ctx.linearization
        if isinstance(linearization, CompiledLinearization):
            linearization.regain(list(saved[ctx.num_tensors :]))
        products = linearization.rmatvec(list(given.values()), selection)
        if isinstance(linearization, CompiledLinearization):
            linearization.release()
        if torch.is_grad_enabled():
            products = without_derivative(
                f'What {ctx.name} with engine="compiled" returns can be differentiated once. Use engine="tape" for'
                " higher derivatives.",
                products,
                [*followed, *given.values()],
            )
        # An optimizer leaves a parameter without a gradient alone, and moves one whose gradient is zero.
        connected = set().union(*[ctx.reached[i] for i in given])
        found = [product if i in connected else None for i, product in enumerate(products)]
        return (None, None, None, None, *found, *[None] * (ctx.num_tensors - len(followed)))


def without_derivative(sentence: str, tensors: Sequence[Tensor], followed: Sequence[Tensor]) -> list[Tensor]:
    """The tensors as they are, connected to those that they depend on; their backward raises the sentence."""
    return list(
        _Refusing.apply(sentence, len(tensors), *tensors, *followed)  # type: ignore[no-untyped-call]  # torch's own
    )


class _Refusing(torch.autograd.Function):
    """The first tensors, connected to all; they have no derivative."""

    @staticmethod
    def forward(ctx: Any, sentence: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.sentence = sentence
        return tuple([tensor.detach() for tensor in tensors[:count]])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, ...]:
        raise RuntimeError(ctx.sentence)
