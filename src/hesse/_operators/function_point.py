"""``FunctionPoint``: a plain function at its inputs, whose one term is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hesse._autograd.arguments import Point as At
from hesse._autograd.captured import arguments_of
from hesse._base.devices import generator_states
from hesse._base.space import Space
from hesse._linearize.choice import EngineName
from hesse._linearize.engines import Engines, Kind, Linearize
from hesse._linearize.guard import Guard
from hesse._linearize.lone_product import LoneProduct
from hesse._linearize.protocol import Leaves, Linearization, Map
from hesse._operators.explanation import Explanation
from hesse._operators.point import Point
from hesse._operators.terms import Term

_LITTLE = 2**17


class FunctionPoint(Point):
    """A plain function at its inputs: one term, which is kept.

    Args:
        make: makes the term by what it is given to linearize with; evaluates the function.
        at: the point; what the engines' function captures belongs to it.
        remedy: the call that takes the point as it is now.
    """

    def __init__(
        self,
        variables: Space,
        engines: Engines,
        make: Callable[[Linearize], Term],
        at: At,
        remedy: str = "at(inputs)",
    ) -> None:
        super().__init__(variables, engines, strict=True)
        self._make = make
        # The function runs once: a program that takes the tape's place draws from where the tape did.
        self._states = generator_states() if engines.is_automatic else {}
        self.term = make(functools.partial(engines.linearize, name=variables.name))
        beside = engines.captured(was_evaluated=self._was_evaluated)
        self.guard = Guard(variables.name, arguments_of(at), remedy, beside)
        self._taped: Term | None = None
        self._fixed = [(1.0, self.term, (), False)]

    @property
    def value(self) -> Tensor:
        """The loss."""
        return self.term.value.clone()

    @property
    def gradient(self) -> Tensor:
        """Its gradient as a flat vector."""
        return self.variables.join(self.term.gradient).clone()

    def evaluated(self) -> Linearization:
        """The linearization of the one term, to read what the evaluation returned."""
        self.asked += 1
        (linearization,) = self.term.linearizations
        if not self._was_evaluated:
            self.guard.check()
        return linearization

    @property
    def _was_evaluated(self) -> bool:
        """Whether the function or its program has run here, and not only a lone product."""
        return any([not isinstance(one, LoneProduct) or one.is_evaluated for one in self.term.linearizations])

    @property
    def is_lone(self) -> bool:
        """Whether there are no two halves yet."""
        return any(isinstance(one, LoneProduct) and not one.is_linearized for one in self.term.linearizations)

    def keep(self) -> None:
        """Make the two halves, if the point is as it was."""
        self.guard.check()
        for one in self.term.linearizations:
            if isinstance(one, LoneProduct):
                one.linearized()

    def kept_terms(self) -> list[Term]:
        """The one term."""
        return [self.term]

    @property
    def engine(self) -> EngineName:
        """The term's own."""
        return "tape" if any(one.engine == "tape" for one in self.term.linearizations) else "compiled"

    def relinearize(self) -> None:
        """By a program that is compared with the tape's term beside it, or by that term again."""
        if self.engines.engine == "compiled":
            references = iter(self.term.linearizations)

            def linearize(kind: Kind, map: Map, point: Leaves, arguments: Any) -> Linearization:
                programs = self.engines.programs_of(kind)
                return programs.beside(next(references), self._states, map, point, arguments)

            made = self._make(linearize)
            self.term, self._taped = made, self.term
        elif self._taped is not None:
            self.term, self._taped = self._taped, None
        self._fixed = [(1.0, self.term, (), False)]

    def keep_engine(self) -> None:
        """Free the tape's graph."""
        if self._taped is not None:
            _close(self._taped)
            self._taped = None

    def loss_at(self, x: Sequence[Tensor]) -> Tensor:
        """Not of a plain function, which is at hand."""
        raise TypeError("loss_at() is for a loss over data. Call the function itself at other inputs.")

    def left(self, needed: int | None = None) -> int:
        """What ``memory=`` allows; what is free now is not read for very little, which takes longer than the call."""
        if needed is not None and needed <= _LITTLE and self.engines.options.memory is None:
            return needed
        return self.engines.options.allowed(self.variables.device)

    def explain(self, explanation: Explanation) -> Explanation:
        """Nothing more."""
        return explanation

    def close(self) -> None:
        """Free the kept graph, and what was remembered of captured tensors."""
        super().close()
        _close(self.term)
        self.engines.forget()


def _close(term: Term) -> None:
    for linearization in term.linearizations:
        linearization.close()
