"""Sums at places (``x[i] += y``, what gathering leads to in a derivative) by places that were sorted once at the point.

Inductor adds atomically, which takes most of the time of a sum over pairs of atoms, and in another order each time. The
places do not depend on the vectors, so the order that puts equal ones side by side belongs to the point; what is left
for a replay are sums of consecutive rows, always the same.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._linearize.program.capture import Joint
from hesse._linearize.program.undisturbed import undisturbed

aten = torch.ops.aten

_library = torch.library.Library("hesse", "FRAGMENT")  # type: ignore[no-untyped-call]  # no types there
_library.define("sort_places(Tensor places, int count) -> (Tensor, Tensor)")  # type: ignore[no-untyped-call]  # as above
_library.define("sum_rows(Tensor rows, Tensor order, Tensor starts) -> Tensor")  # type: ignore[no-untyped-call]  # as above


def _sort_places(places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The order that puts equal ones of the places 0, …, count - 1 side by side, and where each begins in it."""
    in_order, order = torch.sort(places, stable=True)
    return order, torch.searchsorted(in_order, torch.arange(count, device=places.device))


def _sum_rows(rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum k of ``rows`` (m, d) is over those numbered order[starts[k]:starts[k + 1]]."""
    total: Tensor = aten._embedding_bag_forward_only(rows.contiguous(), order, starts)[0]
    return total


def _sum_many_rows(info: Any, in_dims: Sequence[int | None], rows: Tensor, order: Tensor, starts: Tensor) -> Any:
    """For many vectors at once their rows lie side by side; the places are the same for all."""
    many = rows.movedim(in_dims[0] or 0, 1)
    total = torch.ops.hesse.sum_rows(many.reshape(len(many), -1), order, starts)
    return total.reshape(len(starts), *many.shape[1:]), 1


_library.impl("sort_places", _sort_places, "CPU")  # type: ignore[no-untyped-call]  # as above
_library.impl("sum_rows", _sum_rows, "CPU")  # type: ignore[no-untyped-call]  # as above
torch.library.register_fake(
    "hesse::sort_places", lambda places, count: (places.new_empty(len(places)), places.new_empty(count)), lib=_library
)
torch.library.register_fake(
    "hesse::sum_rows", lambda rows, order, starts: rows.new_empty(starts.shape[0], rows.shape[1]), lib=_library
)
torch.library.register_vmap("hesse::sum_rows", _sum_many_rows, lib=_library)


SORT_PLACES, SUM_ROWS = torch.ops.hesse.sort_places.default, torch.ops.hesse.sum_rows.default
"""Places in order; sums of rows in that order."""


def sum_by_sorted_places(joint: Joint, table: dict[Any, Any]) -> Joint:
    """The same joint graph, where sums at places that depend on vectors are sums of sorted rows.

    ``table`` are decompositions of what takes their place.
    """
    dependent = _dependent_on_vectors(joint)
    sorted_places: list[fx.Node] = []
    for node in list(joint.graph.graph.nodes):
        if node in dependent and _is_sum_at_places(node) and not any(index in dependent for index in _indices(node)):
            with joint.graph.graph.inserting_before(node):
                total, places = _sorted_sum(joint.graph.graph, node)
            node.replace_all_uses_with(total)
            joint.graph.graph.erase_node(node)
            sorted_places += places
    if not sorted_places:
        return joint
    # The cut keeps for certain only what the first half gives.
    output = joint.graph.graph.output_node()
    results = list(cast("list[fx.Node]", output.args[0]))
    output.args = ([*results[: joint.num_first], *sorted_places, *results[joint.num_first :]],)
    joint.graph.recompile()
    with undisturbed(), joint.mode:
        graph = make_fx(joint.graph, decomposition_table=table)(*joint.stand_ins)
    return joint._replace(graph=graph, num_first=joint.num_first + len(sorted_places), num_sorted=len(sorted_places))


def _dependent_on_vectors(joint: Joint) -> set[fx.Node]:
    inputs = joint.graph.graph.find_nodes(op="placeholder")
    dependent = set(inputs[joint.num_kept_inputs :])
    for node in joint.graph.graph.nodes:
        if any(entry in dependent for entry in node.all_input_nodes):
            dependent.add(node)
    return dependent


def _indices(node: fx.Node) -> list[fx.Node]:
    given: Any = node.args[1] if node.target is aten.index_put.default else []
    return [index for index in given if index is not None]


def _is_sum_at_places(node: fx.Node) -> bool:
    """``index_put`` that accumulates at places along the first dimensions, of real numbers on a CPU."""
    if node.target is not aten.index_put.default or len(node.args) < 4 or not node.args[3]:
        return False
    into = node.meta["val"]
    places = list(node.args[1])  # type: ignore[arg-type]  # a list of nodes
    return (
        into.device.type == "cpu"
        and into.dtype in (torch.float32, torch.float64)
        and all(place is not None and place.meta["val"].dtype == torch.int64 for place in places)
    )


def _sorted_sum(graph: fx.Graph, node: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """``into + sums``, where ``node`` is ``index_put(into, places, values, True)``, and the places, sorted."""
    into, places, values = node.args[:3]
    shape = list(node.meta["val"].shape)
    dims = len(places)  # type: ignore[arg-type]  # a list of nodes
    count, width = math.prod(shape[:dims]), math.prod(shape[dims:])
    call = graph.call_function
    # One place for each row, counted along all indexed dimensions; negative ones count from the end.
    broadcast = list(np.broadcast_shapes(*[tuple(place.meta["val"].shape) for place in cast("list[fx.Node]", places)]))
    linear: Any = None
    for size, place in zip(shape, places, strict=False):  # type: ignore[arg-type]  # a list of nodes
        within = call(aten.expand.default, (call(aten.remainder.Scalar, (place, size)), broadcast))
        linear = within if linear is None else call(aten.add.Tensor, (call(aten.mul.Scalar, (linear, size)), within))
    linear = call(aten.reshape.default, (linear, [-1]))
    places_sorted = call(SORT_PLACES, (linear, count))
    order, starts = [call(operator.getitem, (places_sorted, i)) for i in range(2)]
    rows = call(aten.expand.default, (values, [*broadcast, *shape[dims:]]))
    rows = call(aten.reshape.default, (rows, [math.prod(broadcast), width]))
    sums = call(aten.reshape.default, (call(SUM_ROWS, (rows, order, starts)), shape))
    return call(aten.add.Tensor, (into, sums)), [order, starts]
