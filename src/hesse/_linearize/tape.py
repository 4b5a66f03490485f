"""The tape: keep the autograd graph of one evaluation and pull vectors back through it, reverse over reverse.

Always the reference for every other engine. The products of a kept point cost two thirds of the matrix
multiplications of a lone ``vhp``: the evaluation and the first backward are not repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from hesse._autograd import graph
from hesse._autograd.evaluation import constant, inside_transform, ordinary_autograd, track, untraced
from hesse._autograd.gradients import MissingDerivative, gradients, unaliased, zeros_where_none
from hesse._autograd.refusal import no_derivative
from hesse._base.errors import ClosedError, StalePointError
from hesse._linearize.protocol import EngineName, Leaves, Linearization, Map, Selection

CLOSED = "A product was asked of an operator that is closed. Make a new one with at(inputs) or anew."


def linearize(map: Map, point: Leaves, *, create_graph: bool = False, name: str = "linearize") -> Tape:
    """Evaluate ``map`` once at ``point`` and keep its graph.

    With ``create_graph`` values and products stay connected to ``point`` and to what the map captures. ``name`` is
    what errors call the entry that the function was given to.
    """
    refuse_inside_transform()

    def tape() -> Tape:
        made: Tape = untraced(Tape)(map, point, create_graph, name)
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

    def __init__(self, map: Map, point: Leaves, create_graph: bool, name: str) -> None:
        self.create_graph = create_graph
        self._map, self._point, self._name = map, point, name
        with ordinary_autograd():
            x = tuple([track(leaf, create_graph) for leaf in point])
            outputs, self.aux = map(x)
        self._x: Leaves | None = x
        self._outputs: Leaves | None = outputs
        self._transposed: tuple[Leaves, Leaves] | None = None
        self.outputs = list(unaliased([output if create_graph else output.detach() for output in outputs]))

    def rmatvec(
        self, cotangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """cotangentsᵀ · J: one backward through the kept graph."""
        x, outputs = self._kept()

        def pull() -> list[Tensor]:
            chosen = [outputs[i] for i in selection.outputs], [x[j] for j in selection.inputs]
            return self._pull(*chosen, cotangents, batched, last)

        products = self._explained(pull, lambda tape: tape.rmatvec(cotangents, selection, batched=batched))
        if last:
            self.close()
        return products

    def matvec(
        self, tangents: Leaves, selection: Selection, *, batched: bool = False, last: bool = False
    ) -> list[Tensor]:
        """J · tangents: one backward through Jᵀw, whose graph is made at the first call (double-backward trick)."""
        x, outputs = self._kept()

        def push() -> list[Tensor]:
            weights, transposed = self._transposed or untraced(self._transpose)(x, outputs)
            chosen = [transposed[j] for j in selection.inputs], [weights[i] for i in selection.outputs]
            return self._pull(*chosen, tangents, batched, last)

        products = self._explained(push, lambda tape: tape.matvec(tangents, selection, batched=batched))
        if last:
            self._transposed = None
        return products

    def _explained(self, compute: Callable[[], list[Tensor]], again: Callable[[Tape], object]) -> list[Tensor]:
        def anew() -> object:
            return again(Tape(self._map, self._point, self.create_graph, self._name))

        replay = getattr(self._map, "replay", None)
        try:
            if replay is None:
                return compute()
            products: list[Tensor] = replay(self._x, compute)
            return products
        except MissingDerivative as missing:
            raise no_derivative(missing, self._name, self._map, self._point, anew) from missing.__cause__

    def _transpose(self, x: Leaves, outputs: Leaves) -> tuple[Leaves, Leaves]:
        with ordinary_autograd():
            weights = [torch.zeros_like(output, requires_grad=True) for output in outputs]
            transposed = zeros_where_none(gradients(outputs, x, weights, create_graph=True), x)
        self._transposed = weights, transposed
        return self._transposed

    def _pull(self, outputs: Leaves, x: Leaves, vectors: Leaves, batched: bool, last: bool) -> list[Tensor]:
        refuse_replay_inside_transform()
        products: list[Tensor] = untraced(self._replay)(outputs, x, vectors, batched, last)
        return products

    def _replay(self, outputs: Leaves, x: Leaves, vectors: Leaves, batched: bool, last: bool) -> list[Tensor]:
        with ordinary_autograd():
            cotangents = [constant(vector, self.create_graph) for vector in vectors]
            try:
                products = gradients(
                    outputs,
                    x,
                    cotangents,
                    retain_graph=not last,
                    create_graph=self.create_graph,
                    batched=batched,
                )
            except RuntimeError as error:
                if "modified by an inplace operation" in str(error):
                    raise StalePointError(
                        "A tensor that the function used has changed in place since this operator was made, so its"
                        " point is gone. Call at(inputs) for the operator at the present values."
                    ) from error
                if "backward through the graph a second time" in str(error):
                    raise RuntimeError(
                        "The graph that this operator keeps was freed by a backward from its value, gradient or"
                        " products. Call that backward with retain_graph=True."
                    ) from error
                raise
            batch = cotangents[0].shape[:1] if batched else ()
            filled = [
                leaf.new_zeros((*batch, *leaf.shape)) if product is None else product
                for product, leaf in zip(products, x, strict=True)
            ]
            return [product if self.create_graph else product.detach() for product in unaliased(filled, cotangents)]

    def _kept(self) -> tuple[Leaves, Leaves]:
        if self._x is None or self._outputs is None:
            raise ClosedError(CLOSED)
        return self._x, self._outputs

    @property
    def num_inputs(self) -> int:
        """How many leaves the point has."""
        return len(self._point)

    def num_nodes(self) -> int:
        """How many nodes the kept graph has."""
        return sum(1 for _ in graph.nodes(self._outputs or ()))

    def kept_bytes(self, beside: Leaves = ()) -> int:
        """Bytes of all distinct memory that the graph keeps alive, that of the tensors ``beside`` not counted."""
        if self._outputs is None:
            return 0
        roots = list(self._outputs) + (list(self._transposed[1]) if self._transposed else [])
        apart = _storages(beside)
        return sum([size for place, size in _storages(_saved_tensors(roots)).items() if place not in apart])

    def close(self) -> None:
        """Free the graph."""
        self._x = self._outputs = self._transposed = None


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


def _saved_tensors(roots: Leaves) -> Iterator[Tensor]:
    """Every tensor that the graph above ``roots`` saved, without unpacking: a checkpoint would be recomputed."""
    for node in graph.nodes(roots):
        for name in _saved_names(type(node)):
            saved = getattr(node, name)
            for entry in saved if isinstance(saved, list | tuple) else (saved,):
                data = getattr(entry, "data", None)
                if isinstance(data, Tensor):
                    yield data


@functools.lru_cache(maxsize=4096)
def _saved_names(kind: type) -> tuple[str, ...]:
    return tuple([name for name in dir(kind) if name.startswith("_raw_saved_")])
