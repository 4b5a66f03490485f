"""Make the parts of a program: capture a map, simplify its graph, and cut it into halves. Loads the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._linearize.program.backends import Backend
from hesse._linearize.program.capture import capture
from hesse._linearize.program.graph import Graph, copy_of, inputs_of, lazily, results_of, run_passes
from hesse._linearize.program.known_values import identifying
from hesse._linearize.program.partition import partition, whole_product
from hesse._linearize.program.parts import Parts, Replay, Which
from hesse._linearize.program.passes.scatter_adds import sort_scatter_adds
from hesse._linearize.program.runs import Run
from hesse._linearize.program.stored_graph import StoredGraph
from hesse._linearize.program.surroundings import Surroundings, layout
from hesse._linearize.program.undisturbed import tracing
from hesse._linearize.protocol import Direction, Leaves, Map


@lazily
def parts_of(
    map: Map,
    point: Leaves,
    surroundings: Surroundings,
    directions: Sequence[Direction],
    backend: Backend,
    most_kept: int | None,
    follows: bool,
    noting: Callable[[], AbstractContextManager[None]],
) -> Parts:
    """The parts of a program for points laid out like ``point`` in ``surroundings``."""
    names = surroundings.names_by_tensor()
    reachable = {id(tensor): tensor for tensor in surroundings.tensors.values()}
    with tracing:
        joint = capture(map, point, reachable, directions, backend.table(), follows, noting)
    num_results = len(results_of(joint.graph))
    joint = joint._replace(graph=run_passes(joint.graph, backend.simplify))
    replays: dict[Which, Replay] = {}
    if set(directions) == {"rmatvec"} and not follows:
        # Before indices are sorted, which pays where they are kept.
        replays["lone"] = whole_product(joint)
    joint = joint._replace(graph=sort_scatter_adds(joint.graph))
    # Passes add results for the replay before the map's own.
    num_added = len(results_of(joint.graph)) - num_results
    precision = coarsest(_floats(joint.graph))
    halves = partition(joint, fuses=backend.fuses, most=most_kept)
    return Parts(
        first=halves.first,
        replays=replays | dict(halves.replays.items()),
        names=names,
        captured=[names[key] for key in joint.captured],
        layouts=[layout(tensor) for tensor in (*point, *[reachable[key] for key in joint.captured])],
        constants=joint.constants,
        known=joint.known,
        positions=[_position(constant, joint.known_values) for constant in joint.constants],
        expected=identifying(joint.known_values),
        variables=joint.variables,
        followed=[names[key] for key in joint.followed],
        reached=joint.reached,
        changed=joint.changed,
        num_added=num_added,
        num_first=joint.num_first,
        num_outputs=joint.num_outputs,
        rebuild_aux=joint.rebuild_aux,
        has_exception=joint.has_exception,
        draws=halves.draws,
        precision=precision,
    )


@lazily
def compiled_half(graph: Graph | StoredGraph, backend: Backend) -> Run:
    """A half as a function."""
    return backend.compile(run_passes(_ready(graph), backend.half))


@lazily
def compiled_replay(part: Replay, kept: Sequence[Tensor], count: int | None, backend: Backend) -> Run:
    """A replay for the strides of the kept tensors; with ``count``, for as many vectors."""
    graph = copy_of(_ready(part.graph))
    for node, tensor in zip(inputs_of(graph)[: len(part.kept)], kept, strict=False):
        given = tensor.shape, tensor.stride()
        node.meta["val"] = node.meta["val"].new_empty_strided(*given, dtype=tensor.dtype)
    return compiled_half(graph if count is None else run_passes(graph, backend.many(count)), backend)


def _ready(graph: Graph | StoredGraph) -> Graph:
    return graph.restored() if isinstance(graph, StoredGraph) else graph


def _position(constant: Tensor, values: Sequence[Any]) -> int | None:
    """The position of a constant among known values, if it is one."""
    return next((i for i, value in enumerate(values) if value is constant), None)


def _floats(graph: Graph) -> list[Tensor]:
    """The stand-ins of a graph's floating-point and complex tensors."""
    values = [node.meta.get("val") for node in graph.graph.nodes]
    return [value for value in values if isinstance(value, Tensor) and value.dtype.to_real().is_floating_point]
