"""The tape: keep the autograd graph of one evaluation and pull vectors back through it, reverse over reverse.

Always the reference for every other engine. The products of a kept point cost two thirds of the matrix
multiplications of a lone ``vhp``: the evaluation and the first backward are not repeated.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from hesse._autograd import graph
from hesse._autograd.agreement import coarsest
from hesse._autograd.evaluation import constant, inside_transform, track
from hesse._autograd.gradients import (
    MissingDerivative,
    Output,
    followed_gradients,
    gradients,
    unaliased,
    zeros_where_none,
)
from hesse._autograd.preserving import preserved
from hesse._autograd.refusal import no_derivative
from hesse._autograd.thread_state import interruptible, ordinary_autograd, untraced
from hesse._base.errors import ClosedError, NoDerivativeError, StalePointError
from hesse._linearize.choice import EngineName
from hesse._linearize.protocol import Leaves, Linearization, Map, Selection, Sources
from hesse._rules.scope import transform_level

CLOSED = "A product was asked of an operator that is closed. Make a new one with at(inputs) or anew."


def linearize(
    map: Map, point: Leaves, *, create_graph: bool = False, name: str = "linearize", sources: Sources | None = None
) -> Tape:
    """Evaluate ``map`` once at ``point`` and keep its graph.

    With ``create_graph`` values and products stay connected to ``point`` and to what the map captures. ``name`` is
    what errors call the entry that the function was given to. With ``sources`` products are pulled back to those.
    """
    refuse_inside_transform()

    def tape() -> Tape:
        made: Tape = untraced(Tape)(map, point, create_graph, name, sources)
        return made

    try:
        return tape()
    except MissingDerivative as missing:
        raise no_derivative(missing, name, map, point, tape) from missing.__cause__


class Tape(Linearization):
    """A linearization that keeps the autograd graph."""

    engine: EngineName = "tape"
    batch_size: int | None = None
    batch_price = 0.0

    def __init__(self, map: Map, point: Leaves, create_graph: bool, name: str, sources: Sources | None = None) -> None:
        self.create_graph = create_graph
        self._map, self._point, self._name, self._sources = map, point, name, sources
        x, outputs, self.aux = self._evaluate()
        self._x: Leaves | None = x
        self._outputs: Sequence[Output | None] | None = outputs
        self._transposed: tuple[Leaves, Leaves] | None = None
        self.outputs = list(unaliased([output if create_graph else output.detach() for output in outputs]))

    @interruptible
    def _evaluate(self) -> tuple[Leaves, Leaves, Any]:
        with ordinary_autograd():
            x = tuple([track(leaf, self.create_graph) for leaf in self._point])
            outputs, aux = self._map(x)
        if self._sources is not None:
            x = (*[x[i] for i in self._sources.variables], *self._sources.captured)
        return x, outputs, aux

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J: one backward through the kept graph; products may share memory with the vectors."""
        x, outputs = self._x, self._outputs
        if x is None or outputs is None:
            raise ClosedError(CLOSED)
        try:
            products = self._pull(outputs, selection.outputs, x, selection.inputs, cotangents, batched, last)
        except MissingDerivative as missing:
            raise self._no_derivative(missing, "rmatvec", cotangents, selection, batched) from missing.__cause__
        if last:
            self.close()
        return products

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents: one backward through Jᵀw, whose graph is made at the first call (double-backward trick)."""
        if self._x is None:
            raise ClosedError(CLOSED)
        try:
            weights, transposed = self._transposed or self._transpose()
            products = self._pull(transposed, selection.inputs, weights, selection.outputs, tangents, batched, last)
        except MissingDerivative as missing:
            raise self._no_derivative(missing, "matvec", tangents, selection, batched) from missing.__cause__
        if last:
            self._transposed = None
        return products

    def _transpose(self) -> tuple[Leaves, Leaves]:
        refuse_replay_inside_transform()
        assert self._x is not None
        assert self._outputs is not None
        x, outputs = self._x, self._values(self._outputs)

        @interruptible
        def transpose() -> tuple[Leaves, Leaves]:
            with ordinary_autograd():
                weights = [torch.zeros_like(output, requires_grad=True) for output in outputs]
                return weights, zeros_where_none(followed_gradients(outputs, x, weights), x)

        made: tuple[Leaves, Leaves] = untraced(transpose)()
        self._transposed = made
        return made

    @staticmethod
    def _values(outputs: Sequence[Output | None]) -> list[Tensor]:
        """Outputs that were not released, which are tensors."""
        values = [output for output in outputs if isinstance(output, Tensor)]
        assert len(values) == len(outputs)
        return values

    def release_outputs(self) -> None:
        """Keep the edges of the graph in place of the outputs; a graph that is differentiated itself keeps all."""
        if self._outputs is None or self.create_graph:
            return
        self.outputs = []
        self._outputs = [_edge(output) if isinstance(output, Tensor) else output for output in self._outputs]

    def _pull(
        self,
        outputs: Sequence[Output | None],
        from_outputs: tuple[int, ...],
        x: Leaves,
        to_x: tuple[int, ...],
        vectors: Leaves,
        batched: bool,
        last: bool,
    ) -> list[Tensor]:
        """vectorsᵀ · ∂outputs/∂x, for some of both by position."""
        if transform_level() is not None:
            refuse_replay_inside_transform()
        # Positions ascend, so as many as there are means all of them.
        if len(from_outputs) != len(outputs):
            outputs = [outputs[i] for i in from_outputs]
        if len(to_x) != len(x):
            x = [x[j] for j in to_x]
        products: list[Tensor] = untraced(self._replay)(outputs, x, vectors, batched, last)
        return products

    @interruptible
    def _replay(
        self, outputs: Sequence[Output | None], x: Leaves, vectors: Leaves, batched: bool, last: bool
    ) -> list[Tensor]:
        with ordinary_autograd():
            given = []
            for vector in vectors:
                if self.create_graph:
                    given.append(constant(vector, True))
                elif vector.is_inference():
                    given.append(vector.clone())
                else:
                    given.append(vector.detach() if vector.requires_grad else vector)
            try:
                found = gradients(
                    outputs,
                    x,
                    given,
                    retain_graph=not last,
                    create_graph=self.create_graph,
                    batched=batched,
                )
            except RuntimeError as error:
                explained = self._explained(error)
                if explained is None:
                    raise
                raise explained from error
            batch = vectors[0].shape[:1] if batched else ()
            products = []
            for product, leaf in zip(found, x, strict=True):
                products.append(leaf.new_zeros((*batch, *leaf.shape)) if product is None else product)
            return products

    def _no_derivative(
        self, missing: MissingDerivative, product: str, vectors: Leaves, selection: Selection, batched: bool
    ) -> NoDerivativeError:
        def again() -> object:
            tape = Tape(self._map, self._point, self.create_graph, self._name, self._sources)
            return getattr(tape, product)(vectors, selection, batched=batched)

        return no_derivative(missing, self._name, self._map, self._point, again)

    def _explained(self, error: RuntimeError) -> Exception | None:
        """What a failed replay says, in terms of operators; None where that is no more than ``error`` says."""
        if "modified by an inplace operation" in str(error):
            if self._is_broken():
                found = re.search(r"output \d+ of (\w+)", str(error))
                written = found[1] if found else "unknown"
                return MissingDerivative(
                    written,
                    f"its backward writes in place into what a second derivative needs, an output of {written}",
                    "Write that backward without operations in place.",
                )
            return StalePointError(
                "A tensor that the function used has changed in place since this operator was made, so its point is"
                " gone. Call at(inputs) for the operator at the present values."
            )
        if "backward through the graph a second time" in str(error):
            return RuntimeError(
                "The graph that this operator keeps was freed by a backward from its value, gradient or products. Call"
                " that backward with retain_graph=True."
            )
        return None

    def _is_broken(self) -> bool:
        """Whether the graph of a new evaluation fails as well, which no change between the two explains."""
        with preserved(self._map, self._point):
            x, outputs, _ = self._evaluate()
            followed = [output for output in outputs if output.requires_grad]
            try:
                torch.autograd.grad(followed, x, [torch.ones_like(output) for output in followed], allow_unused=True)
            except RuntimeError as error:
                return "modified by an inplace operation" in str(error)
        return False

    def nodes(self) -> set[Any]:
        """The nodes of the kept graph."""
        return set(graph.nodes(self._roots()))

    def reached(self) -> list[set[int]]:
        """For each output, the positions of those that it is connected to among what cotangents are pulled back to."""
        sources = [get_gradient_edge(leaf).node if leaf.requires_grad else None for leaf in self._x or ()]
        found = [set(graph.nodes([_root(output)])) if output is not None else set() for output in self._outputs or ()]
        return [{i for i, source in enumerate(sources) if source in nodes} for nodes in found]

    def _roots(self) -> list[Tensor | Node]:
        return [_root(output) for output in self._outputs or () if output is not None]

    def precision(self) -> torch.dtype | None:
        """Of the tensors that the graph has saved."""
        saved = [tensor for tensor in _saved_tensors(self._roots()) if tensor.dtype.to_real().is_floating_point]
        return coarsest(saved) if saved else None

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes of all distinct memory that the graph keeps alive, that of the tensors ``beside`` not counted."""
        if self._outputs is None:
            return 0
        roots = [*self._roots(), *(self._transposed[1] if self._transposed else ())]
        apart = _storages(beside)
        return sum([size for place, size in _storages(_saved_tensors(roots)).items() if place not in apart])

    def close(self) -> None:
        """Free the graph."""
        self._x = self._outputs = self._transposed = None


def _edge(output: Tensor) -> Output | None:
    if not output.requires_grad:
        return None
    return graph.Edge.of(output) if type(output) is Tensor else get_gradient_edge(output)


def _root(output: Output) -> Tensor | Node:
    return output if isinstance(output, Tensor) else output.node


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Distinct memory of tensors: its place and size in bytes."""
    storages = {}
    for tensor in tensors:
        try:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        except RuntimeError:  # sparse tensors and wrapper subclasses
            storages[id(tensor)] = tensor.numel() * tensor.element_size()
    return storages


def refuse_inside_transform() -> None:
    """What is kept at a point cannot outlive a transform of torch.func that surrounds it."""
    if inside_transform():
        raise RuntimeError(
            "An operator keeps an autograd graph, which cannot be made inside a torch.func transform. Call hesse.vhp"
            " there, or make the operator outside."
        )


def refuse_replay_inside_transform() -> None:
    """A replay does not see the transform."""
    if inside_transform():
        raise RuntimeError(
            "A product of a kept point cannot run inside a torch.func transform. Multiply a matrix of columns"
            " at once, or call hesse.vhp there."
        )


def _saved_tensors(roots: Sequence[Tensor | Node]) -> Iterator[Tensor]:
    """Every tensor that the graph above ``roots`` saved, without unpacking: a checkpoint would be recomputed."""
    for node in graph.nodes(roots):
        # A unit of a sharded model has a graph of its own.
        yield from _saved_tensors(getattr(node, "hesse_inner_roots", list)())
        for name in _saved_names(type(node)):
            saved = getattr(node, name)
            for entry in saved if isinstance(saved, list | tuple) else (saved,):
                data = getattr(entry, "data", None)
                if isinstance(data, Tensor):
                    yield data


@functools.lru_cache(maxsize=4096)
def _saved_names(kind: type) -> tuple[str, ...]:
    return tuple([name for name in dir(kind) if name.startswith("_raw_saved_")])
