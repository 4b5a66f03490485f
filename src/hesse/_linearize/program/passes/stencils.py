"""Sums of shifted pieces (differences of neighbors, and what they lead to in a derivative) as pieces side by side.

The derivative of ``x[1:] - x[:-1]`` adds pieces that were padded with zeros. Compiled as they are, every element asks
which of the pieces reach it. Between two ends of pieces the answer is always the same: so the sum is written once for
each such stretch, and the stretches are put side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from hesse._linearize.program.capture import Graph
from hesse._linearize.program.undisturbed import undisturbed

aten = torch.ops.aten

# More stretches, or operations in all of them, take longer to compile than they gain.
_MOST_STRETCHES, _MOST_OPERATIONS = 9, 400


class _Piece(NamedTuple):
    """A term of a sum: what reaches from ``start`` to ``stop``."""

    node: fx.Node
    start: int
    stop: int


def put_pieces_side_by_side(graph: Graph, inputs: list[torch.Tensor], mode: FakeTensorMode) -> Graph:
    """The graph, where sums of padded pieces are made stretch by stretch."""
    found = False
    for node in list(graph.graph.nodes):
        if node.target is aten.add.Tensor and not _is_term(node):
            found |= _Sum(graph.graph, node, mode).rewrite()
    if not found:
        return graph
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with undisturbed(), mode:
        return make_fx(graph)(*inputs)


def _is_term(node: fx.Node) -> bool:
    """Whether a sum is a term of one other sum, and of nothing else."""
    return len(node.users) == 1 and _is_plain_sum(next(iter(node.users)))


def _is_plain_sum(node: Any) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.target is aten.add.Tensor
        and not node.kwargs
        and all(isinstance(term, fx.Node) and _alike(term, node) for term in node.args)
    )


def _alike(term: fx.Node, total: fx.Node) -> bool:
    a, b = term.meta["val"], total.meta["val"]
    return bool(a.shape == b.shape and a.dtype == b.dtype)


class _Sum:
    """A sum whose terms may be padded pieces along one dimension."""

    def __init__(self, graph: fx.Graph, node: fx.Node, mode: FakeTensorMode) -> None:
        self._graph, self._node, self._mode = graph, node, mode
        self._value = node.meta["val"]
        terms = list(_terms(node)) if _is_plain_sum(node) else []
        padded = [term for term in terms if _is_padded(term)]
        self._dim = _dimension(padded[0]) if padded else 0
        self._pieces = [self._piece(term) for term in terms] if padded else []
        self._made: dict[tuple[fx.Node, int, int], fx.Node] = {}

    def _piece(self, term: fx.Node) -> _Piece:
        length = self._value.shape[self._dim]
        if not _is_padded(term) or _dimension(term) != self._dim:
            return _Piece(term, 0, length)
        start, stop, _ = slice(*_bounds(term)).indices(length)
        return _Piece(term.args[1], start, stop)  # type: ignore[arg-type]  # a node

    def rewrite(self) -> bool:
        """Write it stretch by stretch, if there is something to gain."""
        ends = sorted({end for piece in self._pieces for end in (piece.start, piece.stop)})
        if not self._pieces or len(ends) > _MOST_STRETCHES:
            return False
        length = self._value.shape[self._dim]
        stretches = list(itertools.pairwise(sorted({0, *ends, length})))
        before = len(self._graph.nodes)
        with self._graph.inserting_before(self._node):
            found = [self._stretch(start, stop) for start, stop in stretches]
            whole = found[0] if len(found) == 1 else self._call(aten.cat.default, (found, self._dim))
        if len(self._graph.nodes) - before > _MOST_OPERATIONS:
            self._graph.eliminate_dead_code()
            return False
        self._node.replace_all_uses_with(whole)
        return True

    def _stretch(self, start: int, stop: int) -> fx.Node:
        terms = [
            self._part(piece.node, start - piece.start, stop - piece.start)
            for piece in self._pieces
            if piece.start <= start and stop <= piece.stop
        ]
        if not terms:
            shape = list(self._value.shape)
            shape[self._dim] = stop - start
            return self._call(aten.full.default, (shape, 0), dtype=self._value.dtype, device=self._value.device)
        total = terms[0]
        for term in terms[1:]:
            total = self._call(aten.add.Tensor, (total, term))
        return total

    def _part(self, node: fx.Node, start: int, stop: int) -> fx.Node:
        """The node from ``start`` to ``stop``: of an elementwise operation the operation on such parts."""
        value = node.meta["val"]
        if (start, stop) == (0, value.shape[self._dim]):
            return node
        key = node, start, stop
        if key not in self._made:
            self._made[key] = self._new_part(node, start, stop)
        return self._made[key]

    def _new_part(self, node: fx.Node, start: int, stop: int) -> fx.Node:
        value = node.meta["val"]
        if node.target is aten.slice.Tensor and (len(node.args) < 5 or node.args[4] == 1):
            source: Any = node.args[0]
            dim: Any = node.args[1] if len(node.args) > 1 else 0
            if dim % value.dim() == self._dim:
                begin, _, _ = slice(*_slice_bounds(node)).indices(source.meta["val"].shape[self._dim])
                return self._part(source, begin + start, begin + stop)
        if node.target is aten.full.default:
            shape = list(value.shape)
            shape[self._dim] = stop - start
            return self._call(aten.full.default, (shape, node.args[1]), **node.kwargs)
        if torch.Tag.pointwise in getattr(node.target, "tags", ()) and isinstance(value, torch.Tensor):
            copied = self._graph.node_copy(node, lambda entry: self._argument(entry, value, start, stop))
            return self._with_value(copied)
        return self._call(aten.slice.Tensor, (node, self._dim, start, stop))

    def _argument(self, entry: fx.Node, result: torch.Tensor, start: int, stop: int) -> fx.Node:
        """The part of an operation's argument, which may be broadcast along the dimension."""
        value = entry.meta["val"]
        dim = self._dim - (result.dim() - value.dim())
        if dim < 0 or value.shape[dim] == 1:
            return entry
        if dim != self._dim:
            return self._call(aten.slice.Tensor, (entry, dim, start, stop))
        return self._part(entry, start, stop)

    def _call(self, target: Any, arguments: tuple[Any, ...], **options: Any) -> fx.Node:
        return self._with_value(self._graph.call_function(target, arguments, options))

    def _with_value(self, node: fx.Node) -> fx.Node:
        """The node with a stand-in of what it gives, which other sums may look at."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda entry: entry.meta["val"])
        with self._mode:
            node.meta["val"] = node.target(*args, **kwargs)  # type: ignore[operator]  # an operator
        return node


def _terms(node: fx.Node) -> Iterator[fx.Node]:
    """What a sum, and the sums that are only terms of it, add up."""
    for term in cast("tuple[fx.Node, ...]", node.args):
        if _is_plain_sum(term) and _is_term(term):
            yield from _terms(term)
        else:
            yield term


def _is_padded(node: fx.Node) -> bool:
    """Whether it is a piece in the midst of zeros."""
    if node.target is not aten.slice_scatter.default or (len(node.args) > 5 and node.args[5] != 1):
        return False
    zeros: Any = node.args[0]
    return zeros.target is aten.full.default and zeros.args[1] == 0


def _dimension(node: fx.Node) -> int:
    dim: Any = node.args[2] if len(node.args) > 2 else 0
    return int(dim) % int(node.meta["val"].dim())


def _bounds(node: fx.Node) -> tuple[Any, Any]:
    return (node.args[3] if len(node.args) > 3 else None), (node.args[4] if len(node.args) > 4 else None)


def _slice_bounds(node: fx.Node) -> tuple[Any, Any]:
    return (node.args[2] if len(node.args) > 2 else None), (node.args[3] if len(node.args) > 3 else None)
