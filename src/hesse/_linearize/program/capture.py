"""Capture: record the tape's evaluation and products as one functional graph.

The function runs once on stand-ins, tensors without values. So capturing draws no random numbers, changes no tensor and
takes no decision by a value. The recorded products are the tape's own, reverse over reverse.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._autograd.captured import reach
from hesse._autograd.thread_state import interruptible
from hesse._base import trees
from hesse._base.errors import CaptureError
from hesse._base.interrupts import Held
from hesse._linearize.program.explained import refused, while_capturing
from hesse._linearize.program.graph import (
    POINT,
    VECTOR,
    Graph,
    inputs_of,
    name_inputs,
    results_of,
    set_results,
)
from hesse._linearize.program.known_values import KnownValues, Recipe
from hesse._linearize.program.passes.views import reshaped
from hesse._linearize.program.recurrent_layers import as_recurrence
from hesse._linearize.program.stand_ins import Substitute, has_stand_in, is_stand_in, new_mode, recording, stand_in
from hesse._linearize.program.undisturbed import undisturbed
from hesse._linearize.protocol import Direction, Leaves, Map, Selection, Sources
from hesse._linearize.tape import Tape
from hesse._rules import unseen


class Joint(NamedTuple):
    """A map, its outputs and its products with vectors as one functional graph.

    Attributes:
        graph: takes the point's leaves, the captured tensors, the constants, then the vectors; returns the outputs,
            the tensors of ``aux``, the exception, the changed tensors, then the products.
        captured: identities of the captured tensors that the graph takes.
        constants: tensors that the function makes of Python numbers, and known values.
        known: how to compute the known values, if there are any.
        known_values: those that the graph was made for.
        changed: positions among the inputs of tensors that the function changes in place.
        num_outputs: how many of the results are outputs of the map.
        rebuild_aux: makes the auxiliary output from its tensors.
        has_exception: whether the graph returns a truth value that says whether a rule is missing at a point.
        num_first: how many of the results do not depend on vectors.
        products: for each direction, how many vectors it takes and how many products it gives.
        variables: positions in the point of what the products are by.
        followed: identities of the captured tensors that the products are by beside them.
        reached: for each output, the positions of the products that it is connected to.
    """

    graph: Graph
    captured: list[int]
    constants: list[Tensor]
    known: Recipe | None
    known_values: list[Any]
    changed: list[int]
    num_outputs: int
    rebuild_aux: Callable[[Sequence[Tensor]], Any]
    has_exception: bool
    num_first: int
    products: dict[Direction, tuple[int, int]]
    variables: tuple[int, ...]
    followed: list[int]
    reached: list[set[int]]


@interruptible
def capture(
    map: Map,
    point: Leaves,
    reachable: dict[int, Tensor],
    directions: Sequence[Direction],
    decompositions: Any,
    follows: bool = False,
    noting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Joint:
    """Record ``map`` and its products at a point laid out like ``point``.

    Args:
        map: the map to linearize.
        point: only its layouts are read.
        reachable: the tensors that the function may use beside its variables, by identity.
        directions: which products to record; with "rmatvec" alone the outputs must be laid out like the point.
        decompositions: operators to be written with others, as a table for ``make_fx``.
        follows: the products are by what requires gradients, captured tensors included, and not by all of the point.
        noting: entered while code of the user's runs.

    Raises:
        CaptureError: the function reads values, uses a tensor that is not reachable, or fails on stand-ins.
    """
    mode = new_mode()
    with Held(), refused(while_capturing):
        x = [stand_in(mode, leaf, "The input") for leaf in point]
        stand_ins = {key: stand_in(mode, tensor) for key, tensor in reachable.items() if has_stand_in(tensor)}
        required = [i for i, leaf in enumerate(point) if leaf.requires_grad] if follows else None
        recorder = _Recorder(map, reachable, stand_ins, directions, required, noting)
        belonging = [*x, *stand_ins.values()]
        with recording(stand_ins, as_recurrence), mode:
            recorder.shape_vectors(x)
            vectors = [vector for kind in directions for vector in recorder.vectors[kind]]
            recorded = make_fx(recorder)(*belonging, *vectors)
        constants = _constants_to_inputs(recorded, len(belonging))
        inputs = [*belonging, *[stand_in(mode, constant) for constant in constants], *vectors]
        # Decomposed operators may lay out their results differently from the recorded ones.
        table = {**decompositions, torch.ops.aten.view.default: reshaped}
        # No forward mode from here on, which refuses views that come of PyTorch's cache of results.
        mode.cache_enabled = True
        with undisturbed(), mode:
            graph = make_fx(torch.func.functionalize(recorded), decomposition_table=table)(*inputs)
        kept = len(inputs) - len(vectors)
        name_inputs(graph, [f"{POINT}{i}" for i in range(kept)] + [f"{VECTOR}{i}" for i in range(len(vectors))])
        changed = _changes_to_results(graph, recorder.num_first)
        graph.graph.eliminate_dead_code()
        used = _drop_unused(graph, set(range(len(x), len(belonging))) - set(changed))
        position = {old: sum(used[:old]) for old in range(kept)}
        captured = [key for key, is_used in zip(stand_ins, used[len(x) :], strict=False) if is_used]
        graph.recompile()
    return Joint(
        graph,
        captured,
        constants,
        recorder.known.recipe(),
        recorder.known.values,
        [position[old] for old in changed],
        recorder.num_outputs,
        recorder.rebuild_aux,
        recorder.has_exception,
        recorder.num_first + len(changed),
        {kind: (len(recorder.vectors[kind]), recorder.num_products[kind]) for kind in directions},
        tuple(recorder.variables),
        recorder.followed,
        recorder.reached,
    )


class _Recorder:
    """The function that is recorded: a tape at stand-ins, and one product in each direction."""

    def __init__(
        self,
        map: Map,
        reachable: dict[int, Tensor],
        stand_ins: dict[int, Tensor],
        directions: Sequence[Direction],
        required: Sequence[int] | None,
        noting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._noting = noting
        self._map, self._directions = map, directions
        self._reachable, self._stand_ins, self._required = reachable, stand_ins, required
        # What the products are by.
        self.variables: Sequence[int] = ()
        self.followed: list[int] = []
        self.reached: list[set[int]] = []
        self.vectors: dict[Direction, list[Tensor]] = {}
        self.num_products: dict[Direction, int] = {}
        self.num_outputs = self.num_first = 0
        self.has_exception = False
        self.rebuild_aux: Callable[[Sequence[Tensor]], Any] = tuple

    def shape_vectors(self, x: Sequence[Tensor]) -> None:
        """Make stand-ins for vectors, laid out like the inputs or like the outputs."""

        def like(leaves: Leaves) -> list[Tensor]:
            return [torch.empty(leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in leaves]

        self._num_variables = len(x)
        outputs: Leaves = x
        if "matvec" in self._directions or self._required is not None:
            with self._substitute(list(self._stand_ins.values())):
                outputs = Tape(self._map, x, False, "Hessian").outputs
            self.vectors["matvec"] = like(x)
        self.vectors["rmatvec"] = like(outputs)

    def _substitute(self, captured: Sequence[Tensor]) -> Substitute:
        stand_ins = dict(zip(self._stand_ins, captured, strict=True))
        self.known = KnownValues(self._reachable, stand_ins)
        return Substitute(stand_ins, self.known)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        given = iter(inputs)
        x = list(itertools.islice(given, self._num_variables))
        captured = list(itertools.islice(given, len(self._stand_ins)))
        with self._noting(), self._substitute(captured), unseen.watched() as conditions:
            tape, targets = self._taped(x)
            conditions.close()
            everything = Selection(tuple(range(len(tape.outputs))), targets)
            products = []
            for kind in self._directions:
                made = getattr(tape, kind)(list(itertools.islice(given, len(self.vectors[kind]))), everything)
                self.num_products[kind] = len(made)
                products += made
            # Here, since a tensor of the data may come back as it is.
            aux = [tensor.detach() for tensor in self._tensors_of_aux(tape.aux)]
            exception = [torch.stack(conditions.found).any()] if conditions.found else []
        self.has_exception = bool(exception)
        self.num_outputs = len(tape.outputs)
        self.num_first = len(tape.outputs) + len(aux) + len(exception)
        return [*tape.outputs, *aux, *exception, *products]

    def _taped(self, x: Sequence[Tensor]) -> tuple[Tape, tuple[int, ...]]:
        """The tape, and the positions of what products are by among what it is pulled back to."""
        self.variables = every = tuple(range(len(x)))
        if self._required is None:
            return Tape(self._map, x, False, "Hessian"), every
        # As they are: the dispatcher puts the stand-ins in their place below autograd.
        captured = [self._reachable[key] for key in self._stand_ins if self._reachable[key].requires_grad]
        tape = Tape(self._map, x, False, "Hessian", Sources(every, captured))
        reached = tape.reached()
        used = [i for i in range(len(captured)) if any(len(x) + i in places for places in reached)]
        self.followed = [id(captured[i]) for i in used]
        # Where nothing requires gradients, whatever the products are by is not computed.
        if self._required or used:
            self.variables = self._required
        targets = (*self.variables, *[len(x) + i for i in used])
        self.reached = [{i for i, target in enumerate(targets) if target in places} for places in reached]
        return tape, targets

    def _tensors_of_aux(self, aux: Any) -> list[Tensor]:
        leaves, spec = trees.flatten(aux)
        for leaf in leaves:
            # A program would return the object with the tensors of this call.
            if not isinstance(leaf, Tensor) and any(isinstance(found, Tensor) for _, found in reach(leaf)):
                raise CaptureError(f"it returns tensors beside its result in a {type(leaf).__name__}")
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def rebuild_aux(tensors: Sequence[Tensor]) -> Any:
            filled = list(leaves)
            for i, tensor in zip(positions, tensors, strict=True):
                filled[i] = tensor
            return spec.rebuild(filled)

        self.rebuild_aux = rebuild_aux
        return [leaves[i] for i in positions]


def _constants_to_inputs(graph: Graph, position: int) -> list[Tensor]:
    """Make the tensors that are attributes of a recorded graph its inputs, from ``position`` on."""
    before = inputs_of(graph)[position - 1]
    made: dict[str, fx.Node] = {}
    constants: list[Tensor] = []
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        tensor = getattr(graph, node.target)
        if is_stand_in(tensor):
            raise CaptureError("it takes .data of a tensor or otherwise hides where one comes from")
        if node.target not in made:
            with graph.graph.inserting_after(before):
                before = made[node.target] = graph.graph.placeholder(f"constant_{len(constants)}")
            constants.append(tensor)
        node.replace_all_uses_with(made[node.target])
        graph.graph.erase_node(node)
    graph.recompile()
    return constants


def _changes_to_results(graph: Graph, position: int) -> list[int]:
    """Return what the function writes into its inputs as results from ``position`` on; which inputs it writes into."""
    inputs, results = inputs_of(graph), results_of(graph)
    changed: list[int] = []
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.copy_.default and node.args[0] in inputs:
            results.insert(position + len(changed), node.args[1])
            changed.append(inputs.index(node.args[0]))
            node.replace_all_uses_with(node.args[1])
            graph.graph.erase_node(node)
    set_results(graph, results)
    return changed


def _drop_unused(graph: Graph, droppable: set[int]) -> list[bool]:
    """Remove those of the droppable inputs that nothing uses; which inputs remain."""
    used = []
    for i, node in enumerate(inputs_of(graph)):
        used.append(bool(node.users) or i not in droppable)
        if not used[-1]:
            graph.graph.erase_node(node)
    return used
