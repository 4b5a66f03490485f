"""A program: the two halves of a captured map, and its lone product; it serves every point with the same layouts."""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from hesse._autograd.aliases import Aliases
from hesse._autograd.gradients import memory_of
from hesse._autograd.thread_state import interruptible
from hesse._base.errors import CaptureError
from hesse._base.precision import any_autocast
from hesse._linearize.program.known_values import identifying
from hesse._linearize.program.parts import Parts, Replay, Which
from hesse._linearize.program.runs import Run, run_as_it_is, without_wrapper
from hesse._linearize.program.surroundings import Surroundings, layout
from hesse._linearize.program.undisturbed import run_undisturbed, undisturbed
from hesse._linearize.protocol import Direction, Leaves, Map, Sources

if TYPE_CHECKING:
    from hesse._linearize.program.backends import Backend
    from hesse._linearize.program.graph import Graph

Form = Literal["halves", "lone"]
"""How a point is served: by two halves, or by one program of a lone product."""


class Start(NamedTuple):
    """What the first half returns.

    Attributes:
        is_exception: whether values at the point call for a rule that the program was made without.
        changed: new values of tensors that the function changes.
    """

    outputs: list[Tensor]
    aux: Any
    is_exception: bool
    changed: list[Tensor]
    kept: list[Tensor]


class Program:
    """A map for all points with the same layouts, in surroundings with the same plain values.

    Args:
        parts: as a capture found them, or as they were saved.
        plain: the plain values of its surroundings, which are parts of it.
        backend: gives what compiles; it is asked where something is compiled, since it loads the compiler.
        seconds: spent on the parts.

    Attributes:
        seconds: spent on capturing and compiling so far.
        points: how many points it has served as two halves, and as a lone product.
        draws: names of the operators by which the function draws random numbers.
        precision: the dtype with the coarsest rounding of all that it computes in.
        saved_seconds: spent by the process that saved it.
        first: the first half, once it is compiled.
        runs: the compiled replays, by kind and the number of vectors at once, which is None for a single vector.
        shared: of each of them, positions of products that share memory with inputs or with each other.
        has_lone_product: whether the product can be one program: the map draws nothing, changes nothing, and no rule is
            missing.
    """

    def __init__(self, parts: Parts, plain: tuple[Any, ...], backend: Callable[[], Backend], seconds: float) -> None:
        self.parts, self.plain, self._backend, self.seconds = parts, plain, backend, seconds
        self.draws, self.precision = parts.draws, parts.precision
        self.points: collections.Counter[Form] = collections.Counter()
        self.saved_seconds = 0.0
        self.first: Run | None = None
        self.runs: dict[tuple[Which, int | None], Run] = {}
        self.shared: dict[tuple[Which, int | None], list[int]] = {}
        needs_first = parts.draws or parts.changed or parts.has_exception
        self.has_lone_product = "lone" in parts.replays and not needs_first

    @staticmethod
    def captured(
        map: Map,
        point: Leaves,
        surroundings: Surroundings,
        directions: Sequence[Direction],
        backend: Backend,
        most_kept: int | None = None,
        follows: bool = False,
        noting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Program:
        """The program of a map that is captured now, at a point laid out like all that it serves.

        ``noting`` is entered while code of the user's runs.
        """
        from hesse._linearize.program.making import parts_of

        began = time.perf_counter()
        parts = parts_of(map, point, surroundings, directions, backend, most_kept, follows, noting)
        return Program(parts, surroundings.plain, lambda: backend, time.perf_counter() - began)

    @property
    def price(self) -> float:
        """Seconds that capturing and compiling it takes, spent here or by the process that saved it."""
        return self.seconds + self.saved_seconds

    @property
    def has_batched(self) -> bool:
        """Whether a replay for many vectors is compiled already."""
        return any(count is not None for _, count in self.runs)

    @property
    def may_be_missing_a_rule(self) -> bool:
        """Whether there may be points whose values call for a rule that the program was made without."""
        return self.parts.has_exception

    def inputs(self, point: Leaves, surroundings: Surroundings) -> list[Tensor] | None:
        """The inputs of the first half at a point; None where the program does not serve it.

        Raises:
            CaptureError: a tensor that the function changes lies within another input.
        """
        if self.plain != surroundings.plain:
            return None
        given = [*point]
        for names in self.parts.captured:
            tensor = surroundings.the_one(names)
            if tensor is None:
                return None
            given.append(tensor)
        if list(map(layout, given)) != self.parts.layouts:
            return None
        if self.parts.changed:
            aliases = Aliases([tensor.detach() for tensor in given], range(len(given)))
            if any(len(aliases.together([i])) > 1 or i in aliases.apart for i in self.parts.changed):
                raise CaptureError("it writes into a tensor that shares memory with another one that it reads")
        known: list[Any] = []
        if self.parts.known is not None:
            known = self.parts.known.values(lambda key: surroundings.the_one(self.parts.names[key]))
            if identifying(known) != self.parts.expected:
                return None
        if self.parts.constants:
            for constant, position in zip(self.parts.constants, self.parts.positions, strict=True):
                given.append(constant if position is None else known[position])
        # Compiled code does not know of lazy conjugation and negation.
        return [
            tensor.detach().resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor.detach()
            for tensor in given
        ]

    def still_takes(self, inputs: Sequence[Tensor], point: Leaves, surroundings: Surroundings) -> bool:
        """Whether these inputs, found before, are its inputs at a point."""
        now = self.inputs(point, surroundings)
        return now is not None and all(
            memory_of(entry) == memory_of(earlier) or torch.equal(entry, earlier)
            for entry, earlier in zip(now, inputs, strict=True)
        )

    def sources(self, surroundings: Surroundings) -> Sources:
        """What products are by: positions in the point, and captured tensors."""
        captured = [tensor for names in self.parts.followed if (tensor := surroundings.the_one(names)) is not None]
        return Sources(self.parts.variables, captured)

    def changed_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Those of the inputs that the function changes in place."""
        return [inputs[i] for i in self.parts.changed]

    def with_copies(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs, with copies of those that the function changes in place."""
        changed = set(self.parts.changed)
        return [tensor.clone() if i in changed else tensor for i, tensor in enumerate(inputs)]

    @interruptible
    def start(self, inputs: Sequence[Tensor]) -> Start:
        """Run the first half. It changes nothing; it draws if the function does."""
        parts = self.parts
        if self.first is None:
            from hesse._linearize.program.making import compiled_half

            began = time.perf_counter()
            # Operator by operator it draws the same numbers, in the same order, as the tape. It is never saved.
            half = parts.first
            run = run_as_it_is(cast("Graph", half)) if self.draws else compiled_half(half, self._backend())
            found = run_undisturbed(run, list(inputs))
            # The first run compiles the steps of recurrences.
            self.seconds += time.perf_counter() - began
            self.first = without_wrapper(run)
        else:
            found = run_undisturbed(self.first, list(inputs))
        found = found[parts.num_added :]
        first, kept = found[: parts.num_first], found[parts.num_first :]
        taken = {memory_of(tensor) for tensor in (*inputs, *kept)} - {None}
        # The user may write into the results, and the kept tensors must not change.
        first = [result.clone() if memory_of(result) in taken else result for result in first]
        given = iter(first)
        outputs = list(itertools.islice(given, parts.num_outputs))
        num_aux = parts.num_first - parts.num_outputs - parts.has_exception - len(parts.changed)
        aux = parts.rebuild_aux(list(itertools.islice(given, num_aux)))
        is_exception = parts.has_exception and bool(next(given))
        return Start(outputs, aux, is_exception, list(given), kept)

    def replay(
        self, which: Which, kept: Sequence[Tensor], vectors: dict[int, Tensor], count: int | None = None
    ) -> list[Tensor]:
        """All products with a vector, in memory of their own; entries that are not given are zero.

        With ``count``, products with as many vectors, one a row, by a half of its own. For a lone product, ``kept`` are
        the inputs of the first half, which does not run.
        """
        part, half = self.parts.replays[which], (which, count)
        given = list(map(kept.__getitem__, part.kept))
        for i, stand_in in zip(part.vectors, part.stand_ins):  # noqa: B905  # asking costs time in each product
            vector = vectors.get(i)
            given.append(_zeros_like(stand_in, count) if vector is None else _laid_out(vector, stand_in.dtype))
        run = self.runs.get(half)
        if run is None:
            return self._first_replay(part, given, which, count)
        # Of tensors that require no gradients: it is all the same whether gradients are on.
        if torch.is_inference_mode_enabled() or any_autocast():
            products = run_undisturbed(run, given)
        else:
            products = list(run(given))
        for i in self.shared[half]:
            products[i] = products[i].clone()
        return products

    @interruptible
    def _first_replay(self, part: Replay, given: list[Tensor], which: Which, count: int | None) -> list[Tensor]:
        """Compile a replay for the strides of the kept tensors, which the compiled first half has chosen."""
        from hesse._linearize.program.making import compiled_replay

        began = time.perf_counter()
        with undisturbed():
            run = compiled_replay(part, given, count, self._backend())
            products = list(run(list(given)))
        taken = {memory_of(tensor) for tensor in given} - {None}
        shared = []
        for i, product in enumerate(products):
            if memory_of(product) in taken or 0 in product.stride():
                shared.append(i)
                products[i] = product.clone()
            elif product.numel():
                taken.add(memory_of(product))
        self.runs[which, count], self.shared[which, count] = without_wrapper(run), shared
        self.seconds += time.perf_counter() - began
        return products


def _laid_out(vector: Tensor, dtype: torch.dtype) -> Tensor:
    """The vector as a replay takes it."""
    if vector.requires_grad:
        vector = vector.detach()
    if vector.dtype != dtype or vector.layout != torch.strided:
        vector = (vector if vector.layout == torch.strided else vector.to_dense()).to(dtype)
    if vector.is_conj() or vector.is_neg():
        vector = vector.resolve_conj().resolve_neg()
    return vector.contiguous()


def _zeros_like(stand_in: Tensor, count: int | None) -> Tensor:
    shape = stand_in.shape if count is None else (count, *stand_in.shape)
    return torch.zeros(shape, dtype=stand_in.dtype, device=stand_in.device)
