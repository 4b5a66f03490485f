"""The function under examination, evaluated as often as it takes without a trace."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hesse._autograd.arguments import Argnums, check_point, evaluate_scalar
from hesse._autograd.dependence import Followed, Missed, missed
from hesse._autograd.evaluation import differentiate
from hesse._autograd.gradients import gradients, zeros_where_none
from hesse._autograd.preserving import State

Scope = Callable[[], AbstractContextManager[object]]
Leaves = Sequence[Tensor]


class Evaluation(NamedTuple):
    """Value and gradient at a point, and which leaves the gradient is connected to."""

    value: Tensor
    gradient: list[Tensor]
    connected: list[bool]

    @property
    def is_finite(self) -> bool:
        """Whether there is no infinity and no NaN in it."""
        return is_finite([self.value, *self.gradient])


class Subject:
    """A scalar function at a point.

    Attributes:
        func, inputs, has_aux, argnums: as the user gave them.
        point: the same, taken apart.
    """

    def __init__(self, func: Callable[..., Any], inputs: Any, has_aux: bool, argnums: Argnums) -> None:
        self.func, self.inputs, self.has_aux, self.argnums = func, inputs, has_aux, argnums
        self.point = check_point("check", func, inputs, argnums)
        if any([leaf.is_meta for leaf in self.point.leaves]):
            raise RuntimeError("The inputs given to check are on the meta device, where tensors hold no numbers.")
        self._state = State(func, inputs)

    @property
    def leaves(self) -> list[Tensor]:
        """The variables at the point."""
        return self.point.leaves

    @contextlib.contextmanager
    def preserved(self) -> Iterator[State]:
        """Whatever evaluations within it change is afterwards as it was when the subject was made."""
        try:
            yield self._state
        finally:
            self._state.restore()

    def evaluate(self, leaves: Leaves | None = None, scope: Scope = contextlib.nullcontext) -> Evaluation:
        """Value and gradient from the state in which the subject was made, which is put back afterwards."""
        with self.preserved():
            return self.advance(leaves, scope)

    def advance(self, leaves: Leaves | None = None, scope: Scope = contextlib.nullcontext) -> Evaluation:
        """Value and gradient; generators and buffers go on as by one evaluation. ``scope`` is around ``func`` alone."""

        def body(x: tuple[Tensor, ...]) -> Evaluation:
            output = self.output(x, scope)
            found = gradients((output,), x)
            gradient = [entry.detach() for entry in zeros_where_none(found, x)]
            return Evaluation(output.detach(), gradient, [entry is not None for entry in found])

        evaluation: Evaluation = differentiate(body, self.leaves if leaves is None else leaves, False)
        return evaluation

    def product(self, leaves: Leaves, vector: Leaves, scope: Scope = contextlib.nullcontext) -> list[Tensor]:
        """vᵀH by double backward, at other leaves or in another scope than the operator under examination."""

        def body(x: tuple[Tensor, ...]) -> list[Tensor]:
            gradient = gradients((self.output(x, scope),), x, create_graph=True)
            return [entry.detach() for entry in zeros_where_none(gradients(gradient, x, vector), x)]

        with self.preserved():
            product: list[Tensor] = differentiate(body, leaves, False)
        return product

    def missed(self) -> Missed | None:
        """Why the value does not depend on variables, where that is a mistake."""

        def body(x: tuple[Tensor, ...]) -> Missed | None:
            followed = Followed(self.leaves, self.func, self.inputs, lambda x: [self.output(x, contextlib.nullcontext)])
            return missed(followed.evaluate(x), x, followed)

        with self.preserved():
            found: Missed | None = differentiate(body, self.leaves, False)
        return found

    def output(self, x: tuple[Tensor, ...], scope: Scope) -> Tensor:
        """The function's single element at tracked leaves."""
        with scope():
            return evaluate_scalar("check", self.point, x, False, self.has_aux)[0]


def inner(left: Leaves, right: Leaves) -> float:
    """The real inner product of two structured vectors, in double precision."""
    return math.fsum([float(_double(a).mul(_double(b)).sum()) for a, b in zip(left, right, strict=True)])


def norm(vector: Leaves) -> float:
    """The Euclidean norm of a structured vector, in double precision."""
    return math.sqrt(inner(vector, vector))


def is_finite(vector: Leaves) -> bool:
    """Whether there is no infinity and no NaN in a structured vector."""
    return all([bool(_dense(tensor).isfinite().all()) for tensor in vector])


def _double(tensor: Tensor) -> Tensor:
    dense = _dense(tensor.detach())
    real = torch.view_as_real(dense.resolve_conj()) if tensor.dtype.is_complex else dense
    return real.cpu().double()


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()
