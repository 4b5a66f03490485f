"""A program: the two halves of a captured map, and its lone product; it serves every point with the same layouts."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._autograd.gradients import memory_of
from hesse._autograd.thread_state import interruptible
from hesse._linearize.program.backends import Backend
from hesse._linearize.program.capture import capture
from hesse._linearize.program.graph import Graph, copy_of, inputs_of, lazily, results_of, run_passes
from hesse._linearize.program.known_values import identifying
from hesse._linearize.program.partition import Replay, partition, whole_product
from hesse._linearize.program.passes.scatter_adds import sort_scatter_adds
from hesse._linearize.program.runs import Run, run_as_it_is, without_wrapper
from hesse._linearize.program.surroundings import Surroundings, layout
from hesse._linearize.program.undisturbed import results, undisturbed
from hesse._linearize.protocol import Direction, Leaves, Map, Sources

Form = Literal["halves", "lone"]
"""How a point is served: by two halves, or by one program of a lone product."""

Which = Direction | Literal["lone"]


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
    """A captured map, for points laid out like ``point`` in ``surroundings`` with the same plain values.

    Attributes:
        seconds: spent on capturing and compiling so far.
        points: how many points it has served as two halves, and as a lone product.
        draws: names of the operators by which the function draws random numbers.
        plain: the plain values of its surroundings, which are parts of it.
        precision: the dtype with the coarsest rounding of all that it computes in.
    """

    @lazily
    def __init__(
        self,
        map: Map,
        point: Leaves,
        surroundings: Surroundings,
        directions: Sequence[Direction],
        backend: Backend,
        most_kept: int | None = None,
        *,
        follows: bool = False,
    ) -> None:
        began = time.perf_counter()
        names = surroundings.names_by_tensor()
        reachable = {id(tensor): tensor for tensor in surroundings.tensors.values()}
        joint = capture(map, point, reachable, directions, backend.table(), follows)
        num_results = len(results_of(joint.graph))
        joint = joint._replace(graph=run_passes(joint.graph, backend.simplify))
        self._replays: dict[Which, Replay] = {}
        if set(directions) == {"rmatvec"} and not follows:
            # Before indices are sorted, which pays where they are kept.
            self._replays["lone"] = whole_product(joint)
        joint = joint._replace(graph=sort_scatter_adds(joint.graph))
        # Passes add results for the replay before the map's own.
        self._num_added = len(results_of(joint.graph)) - num_results
        self.precision = coarsest(_floats(joint.graph))
        halves = partition(joint, fuses=backend.fuses, most=most_kept)
        self.draws, self.plain = halves.draws, surroundings.plain
        self._captured = [names[key] for key in joint.captured]
        self._variables, self._followed = joint.variables, [names[key] for key in joint.followed]
        self._layouts = [layout(tensor) for tensor in (*point, *[reachable[key] for key in joint.captured])]
        # Without the joint graph, which takes memory.
        self._joint, self._backend = joint._replace(graph=halves.first), backend
        self._replays.update(halves.replays.items())
        self._first: Run | None = None
        self._known = [_position(constant, joint.known_values) for constant in joint.constants]
        self._expected = identifying(joint.known_values)
        self.points: collections.Counter[Form] = collections.Counter()
        self._names = names
        # By kind and the number of vectors at once, which is None for a single vector.
        self._runs: dict[tuple[Which, int | None], Run] = {}
        # Positions of products that share memory with inputs or with each other.
        self._shared: dict[tuple[Which, int | None], list[int]] = {}
        self.seconds = time.perf_counter() - began

    @property
    def has_batched(self) -> bool:
        """Whether a replay for many vectors is compiled already."""
        return any(count is not None for _, count in self._runs)

    @property
    def may_be_missing_a_rule(self) -> bool:
        """Whether there may be points whose values call for a rule that the program was made without."""
        return self._joint.has_exception

    def inputs(self, point: Leaves, surroundings: Surroundings) -> list[Tensor] | None:
        """The inputs of the first half at a point; None where the program does not serve it."""
        if self.plain != surroundings.plain:
            return None
        given = [*point]
        for names in self._captured:
            tensor = surroundings.the_one(names)
            if tensor is None:
                return None
            given.append(tensor)
        if list(map(layout, given)) != self._layouts:
            return None
        known: list[Any] = []
        if self._joint.known is not None:
            known = self._joint.known.values(lambda key: surroundings.the_one(self._names[key]))
            if identifying(known) != self._expected:
                return None
        for constant, position in zip(self._joint.constants, self._known, strict=True):
            given.append(constant if position is None else known[position])
        # Compiled code does not know of lazy conjugation and negation.
        return [
            tensor.detach().resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor.detach()
            for tensor in given
        ]

    def has_lone_product(self) -> bool:
        """Whether the product can be one program: the map draws nothing, changes nothing, and no rule is missing."""
        needs_first = self.draws or self._joint.changed or self._joint.has_exception
        return "lone" in self._replays and not needs_first

    def sources(self, surroundings: Surroundings) -> Sources:
        """What products are by: positions in the point, and captured tensors."""
        captured = [tensor for names in self._followed if (tensor := surroundings.the_one(names)) is not None]
        return Sources(self._variables, captured)

    def changed_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Those of the inputs that the function changes in place."""
        return [inputs[i] for i in self._joint.changed]

    def with_copies(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs, with copies of those that the function changes in place."""
        changed = set(self._joint.changed)
        return [tensor.clone() if i in changed else tensor for i, tensor in enumerate(inputs)]

    @interruptible
    def start(self, inputs: Sequence[Tensor]) -> Start:
        """Run the first half. It changes nothing; it draws if the function does."""
        joint = self._joint
        if self._first is None:
            began = time.perf_counter()
            # Operator by operator it draws the same numbers, in the same order, as the tape.
            self._first = run_as_it_is(joint.graph) if self.draws else self._compiled(joint.graph)
            with undisturbed():
                results = list(self._first(list(inputs)))
            # The first run compiles the steps of recurrences.
            self.seconds += time.perf_counter() - began
            self._first = without_wrapper(self._first)
        else:
            with undisturbed():
                results = list(self._first(list(inputs)))
        results = results[self._num_added :]
        first, kept = results[: joint.num_first], results[joint.num_first :]
        taken = {memory_of(tensor) for tensor in (*inputs, *kept)} - {None}
        # The user may write into the results, and the kept tensors must not change.
        first = [result.clone() if memory_of(result) in taken else result for result in first]
        given = iter(first)
        outputs = list(itertools.islice(given, joint.num_outputs))
        num_aux = joint.num_first - joint.num_outputs - joint.has_exception - len(joint.changed)
        aux = joint.rebuild_aux(list(itertools.islice(given, num_aux)))
        is_exception = joint.has_exception and bool(next(given))
        return Start(outputs, aux, is_exception, list(given), kept)

    def replay(
        self, which: Which, kept: Sequence[Tensor], vectors: dict[int, Tensor], count: int | None = None
    ) -> list[Tensor]:
        """All products with a vector, in memory of their own; entries that are not given are zero.

        With ``count``, products with as many vectors, one a row, by a half of its own. For a lone product, ``kept`` are
        the inputs of the first half, which does not run.
        """
        part = self._replays[which]
        given = list(map(kept.__getitem__, part.kept))
        for i, stand_in in zip(part.vectors, part.stand_ins, strict=True):
            vector = vectors.get(i)
            given.append(_zeros_like(stand_in, count) if vector is None else _laid_out(vector, stand_in.dtype))
        half = which, count
        run = self._runs.get(half)
        if run is None:
            return self._first_replay(part, given, which, count)
        products = results(run, given)
        for i in self._shared[half]:
            products[i] = products[i].clone()
        return products

    @interruptible
    @lazily
    def _first_replay(self, part: Replay, given: list[Tensor], which: Which, count: int | None) -> list[Tensor]:
        """Compile a replay for the strides of the kept tensors, which the compiled first half has chosen."""
        began = time.perf_counter()
        with undisturbed():
            graph = copy_of(part.graph)
            for node, tensor in zip(inputs_of(graph)[: len(part.kept)], given, strict=False):
                layout = tensor.shape, tensor.stride()
                node.meta["val"] = node.meta["val"].new_empty_strided(*layout, dtype=tensor.dtype)
            run = self._compiled(graph if count is None else run_passes(graph, self._backend.many(count)))
            products = list(run(list(given)))
        taken = {memory_of(tensor) for tensor in given} - {None}
        shared = []
        for i, product in enumerate(products):
            if memory_of(product) in taken or 0 in product.stride():
                shared.append(i)
                products[i] = product.clone()
            elif product.numel():
                taken.add(memory_of(product))
        self._runs[which, count], self._shared[which, count] = without_wrapper(run), shared
        self.seconds += time.perf_counter() - began
        return products

    @lazily
    def _compiled(self, graph: Graph) -> Run:
        return self._backend.compile(run_passes(graph, self._backend.half))


def _position(constant: Tensor, values: Sequence[Any]) -> int | None:
    """The position of a constant among known values, if it is one."""
    return next((i for i, value in enumerate(values) if value is constant), None)


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


def _floats(graph: Graph) -> list[Tensor]:
    """The stand-ins of a graph's floating-point and complex tensors."""
    values = [node.meta.get("val") for node in graph.graph.nodes]
    return [value for value in values if isinstance(value, Tensor) and value.dtype.to_real().is_floating_point]
