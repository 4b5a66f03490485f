"""A program: the two compiled halves of a captured map, good for every point that is laid out alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from hesse._autograd.gradients import memory_of
from hesse._base.clock import Clock
from hesse._linearize.program.backends import Backend, Run, run_as_it_is, run_with_faster_products
from hesse._linearize.program.capture import Joint, capture
from hesse._linearize.program.partition import Replay, partition, stand_ins_of
from hesse._linearize.program.passes.many_vectors import for_many
from hesse._linearize.program.passes.restricted import restrict
from hesse._linearize.program.passes.scatter_adds import sum_by_sorted_places
from hesse._linearize.program.surroundings import Layout, Surroundings
from hesse._linearize.program.undisturbed import undisturbed
from hesse._linearize.protocol import Direction, Leaves, Map

Positions = tuple[int, ...]


class Start(NamedTuple):
    """What the first half gives at a point; ``changed`` are new values of tensors that the function changes."""

    outputs: list[Tensor]
    aux: Any
    changed: list[Tensor]
    kept: list[Tensor]


class Program:
    """A captured map for points that are laid out like ``point``, in ``surroundings`` of the same plain values.

    Attributes:
        seconds: spent on capturing and compiling so far.
        draws: names of the operators by which the function draws random numbers.
        plain: the plain values of its surroundings, which are parts of it.
        precision: the dtype that rounds most on the way.
        engine: the name of the engine.
    """

    def __init__(
        self,
        map: Map,
        point: Leaves,
        surroundings: Surroundings,
        directions: Sequence[Direction],
        backend: Backend,
        most_kept: int | None = None,
    ) -> None:
        began = time.perf_counter()
        names = surroundings.names_by_tensor()
        reachable = {id(tensor): tensor for tensor in surroundings.tensors.values()}
        self._table, self.engine = backend.table(), backend.engine
        joint = capture(map, point, reachable, directions, self._table)
        backend.simplify(joint.graph, joint.mode)
        joint = sum_by_sorted_places(joint, self._table)
        self.precision = _coarsest(joint)
        halves = partition(joint, fuses=backend.fuses, most=most_kept)
        self.draws = halves.draws
        self.plain = surroundings.plain
        self._captured = [names[key] for key in joint.captured]
        self._layouts = [Layout.of(leaf) for leaf in point]
        self._captured_layouts = [Layout.of(reachable[key]) for key in joint.captured]
        # Without the graph, which is not needed any more.
        self._joint, self._replays, self._backend = joint._replace(graph=halves.first), halves.replays, backend
        # One that draws runs as it is, operator by operator in the order of the tape, so that it draws the same.
        compile = run_as_it_is if self.draws else backend.compile
        self._first = compile(halves.first, stand_ins_of(halves.first), joint.mode)
        # By direction, and how many vectors at once; None for one by itself.
        self._compiled: dict[tuple[Direction, int | None], Run] = {}
        # Positions of products that share memory with what they were made of.
        self._shared: dict[tuple[Direction, int | None], list[int]] = {}
        # By direction, and which vectors are given and which products wanted; None where all are made as fast.
        self._restricted: dict[tuple[Direction, Positions, Positions], _Restricted | None] = {}
        self.seconds = time.perf_counter() - began

    @property
    def has_batched(self) -> bool:
        """Whether a half for many vectors is compiled already."""
        return any(count is not None for _, count in self._compiled)

    def fits(self, point: Leaves, surroundings: Surroundings) -> bool:
        """Whether this program is right for a point and its surroundings."""
        return (
            self.plain == surroundings.plain
            and [Layout.of(leaf) for leaf in point] == self._layouts
            and all(
                (tensor := surroundings.the_one(names)) is not None and Layout.of(tensor) == layout
                for names, layout in zip(self._captured, self._captured_layouts, strict=True)
            )
        )

    def inputs(self, point: Leaves, surroundings: Surroundings) -> list[Tensor]:
        """What the first half takes at a point."""
        captured = [surroundings.the_one(names) for names in self._captured]
        found = [*point, *[tensor for tensor in captured if tensor is not None], *self._joint.constants]
        return [_plain(tensor) for tensor in found]

    def changed_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Those of the inputs that the function changes in place."""
        return [inputs[i] for i in self._joint.changed]

    def with_copies(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs, with copies of those that the function changes in place."""
        changed = set(self._joint.changed)
        return [tensor.clone() if i in changed else tensor for i, tensor in enumerate(inputs)]

    def start(self, inputs: Sequence[Tensor]) -> Start:
        """Run the first half. It changes nothing; it draws if the function does."""
        joint = self._joint
        with undisturbed():
            results = list(self._first(list(inputs)))
        first, kept = results[: joint.num_first - joint.num_sorted], results[joint.num_first :]
        taken = {memory_of(tensor) for tensor in (*inputs, *kept)} - {None}
        # What is given away must not share memory with what is kept.
        given = [result.clone() if memory_of(result) in taken else result for result in first]
        aux, changed = (
            given[joint.num_outputs : len(given) - len(joint.changed)],
            given[len(given) - len(joint.changed) :],
        )
        return Start(given[: joint.num_outputs], joint.rebuild_aux(aux), changed, kept)

    def replay(
        self, direction: Direction, kept: Sequence[Tensor], vectors: dict[int, Tensor], count: int | None = None
    ) -> list[Tensor]:
        """Products with one vector, in memory of their own; entries that are not given are zero.

        With ``count``, products with so many vectors at once, one a row, by a half of its own.
        """
        part = self._replays[direction]
        given = [kept[i] for i in part.kept]
        for i, stand_in in zip(part.vectors, part.stand_ins, strict=True):
            vector = vectors.get(i)
            given.append(_zeros_like(stand_in, count) if vector is None else _laid_out(vector, stand_in.dtype))
        half = direction, count
        with undisturbed():
            if half not in self._compiled:
                return self._first_replay(part, given, direction, count)
            products = list(self._compiled[half](given))
        for i in self._shared[half]:
            products[i] = products[i].clone()
        return products

    def replay_part(
        self, direction: Direction, kept: Sequence[Tensor], vectors: dict[int, Tensor], wanted: Positions
    ) -> list[Tensor]:
        """The products ``wanted``, with one vector: by a graph for these alone, where that was measured faster."""
        key = direction, tuple(vectors), wanted
        if len(vectors) < self._joint.products[direction][0] or len(wanted) < self._joint.products[direction][1]:
            if key not in self._restricted:
                self._restricted[key] = self._new_restricted(direction, kept, vectors, wanted)
            restricted = self._restricted[key]
            if restricted is not None:
                return restricted.run(kept, vectors)
        products = self.replay(direction, kept, vectors)
        return [products[i] for i in wanted]

    def _new_restricted(
        self, direction: Direction, kept: Sequence[Tensor], vectors: dict[int, Tensor], wanted: Positions
    ) -> _Restricted | None:
        restricted = _Restricted(restrict(self._replays[direction], vectors, wanted), self._joint.mode)
        calls = (lambda: restricted.run(kept, vectors)), (lambda: self.replay(direction, kept, vectors))
        # The second time: the first makes what is used again.
        ours, whole = [min(_seconds(call), _seconds(call)) for call in calls]
        return restricted if ours < whole else None

    def _first_replay(self, part: Replay, given: list[Tensor], direction: Direction, count: int | None) -> list[Tensor]:
        """Compile a half for what the first half has in fact kept, whose strides are the compiler's choice."""
        began = time.perf_counter()
        mode = self._joint.mode
        with mode:
            stand_ins = [
                torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
                for tensor in given
            ]
        if count is None:
            # The compiler writes into what it is given.
            graph = fx.GraphModule(part.graph, copy.deepcopy(part.graph.graph))
            for node, stand_in in zip(graph.graph.find_nodes(op="placeholder"), stand_ins, strict=True):
                node.meta["val"] = stand_in
        else:
            kept = stand_ins[: len(part.kept)]
            graph = for_many(part.graph, kept, part.stand_ins, count, mode, self._table)
            self._backend.simplify(graph, mode)
        run = self._backend.compile(graph, stand_ins, mode)
        products = list(run(list(given)))
        taken = {memory_of(tensor) for tensor in given} - {None}
        shared = []
        for i, product in enumerate(products):
            if memory_of(product) in taken or 0 in product.stride():
                shared.append(i)
                products[i] = product.clone()
            elif product.numel():
                taken.add(memory_of(product))
        self._compiled[direction, count], self._shared[direction, count] = run, shared
        self.seconds += time.perf_counter() - began
        return products


class _Restricted:
    """A replay for some of the leaves, run operator by operator: compiling one for each part would take long."""

    def __init__(self, part: Replay, mode: FakeTensorMode) -> None:
        self._part = part
        self._run = run_with_faster_products(part.graph, [], mode)

    def run(self, kept: Sequence[Tensor], vectors: dict[int, Tensor]) -> list[Tensor]:
        """The wanted products, in memory of their own."""
        part = self._part
        given = [kept[i] for i in part.kept]
        given += [_laid_out(vectors[i], own.dtype) for i, own in zip(part.vectors, part.stand_ins, strict=True)]
        taken = {memory_of(tensor) for tensor in given} - {None}
        with undisturbed():
            products = list(self._run(given))
        for i, product in enumerate(products):
            if memory_of(product) in taken or 0 in product.stride():
                products[i] = product = product.clone()
            if product.numel():
                taken.add(memory_of(product))
        return products


def _seconds(call: Callable[[], list[Tensor]]) -> float:
    clock = Clock()
    return clock.lap(call()[0].device)


def _plain(tensor: Tensor) -> Tensor:
    """The tensor as compiled code reads it: cut off, and without lazy conjugation or negation."""
    return tensor.detach().resolve_conj().resolve_neg()


def _laid_out(vector: Tensor, dtype: torch.dtype) -> Tensor:
    """The vector as a replay takes it."""
    vector = vector.detach()
    if vector.dtype != dtype or vector.layout != torch.strided:
        vector = (vector if vector.layout == torch.strided else vector.to_dense()).to(dtype)
    if vector.is_conj() or vector.is_neg():
        vector = vector.resolve_conj().resolve_neg()
    return vector.contiguous()


def _zeros_like(stand_in: Tensor, count: int | None) -> Tensor:
    shape = stand_in.shape if count is None else (count, *stand_in.shape)
    return torch.zeros(shape, dtype=stand_in.dtype, device=stand_in.device)


def _coarsest(joint: Joint) -> torch.dtype:
    values = [node.meta.get("val") for node in joint.graph.graph.nodes]
    dtypes = {value.dtype.to_real() for value in values if isinstance(value, Tensor)}
    return max((dtype for dtype in dtypes if dtype.is_floating_point), key=lambda dtype: torch.finfo(dtype).eps)
