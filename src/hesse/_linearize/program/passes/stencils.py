"""Split sums of shifted slices, the derivatives of differences of neighbors, into stretches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from hesse._linearize.program.graph import Graph, mode_of, retraced

aten = torch.ops.aten

# More stretches, or operations in all of them, take longer to compile than they gain.
_MOST_STRETCHES, _MOST_OPERATIONS = 9, 400


class _Term(NamedTuple):
    """A term of a sum, which is ``node`` from ``start`` to ``stop`` and zero elsewhere."""

    node: fx.Node
    start: int
    stop: int


def split_stencils(graph: Graph) -> Graph:
    """Write a sum of zero-padded slices once for each stretch that the same slices cover.

    Before::

        y = pad(a, start=0, stop=9) + pad(b, start=1, stop=10)

    After::

        y = cat([a[0:1], a[1:9] + b[0:8], b[8:9]])

    As they are, each element tests which slices cover it. Without the tests, a replay of Rosenbrock's function took
    138 µs instead of 316 µs (docs/decisions/engines.md).
    """
    mode = mode_of(graph)
    sums = [node for node in graph.graph.nodes if node.target is aten.add.Tensor and not _is_term(node)]
    if not any([_Sum(graph.graph, node, mode).rewrite() for node in sums]):
        return graph
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return retraced(graph)


def _is_term(node: fx.Node) -> bool:
    """Whether a sum is only used as a term of one other sum."""
    return len(node.users) == 1 and _is_plain_sum(next(iter(node.users)))


def _is_plain_sum(node: Any) -> bool:
    """Whether a node adds tensors without broadcasting, casting or scaling them."""
    return (
        isinstance(node, fx.Node)
        and node.target is aten.add.Tensor
        and not node.kwargs
        and all(isinstance(term, fx.Node) and _is_alike(term, node) for term in node.args)
    )


def _is_alike(term: fx.Node, total: fx.Node) -> bool:
    a, b = term.meta["val"], total.meta["val"]
    return bool(a.shape == b.shape and a.dtype == b.dtype)


class _Sum:
    """A sum with terms that may be zero-padded along one dimension."""

    def __init__(self, graph: fx.Graph, node: fx.Node, mode: FakeTensorMode) -> None:
        self._graph, self._node, self._mode = graph, node, mode
        self._value = node.meta["val"]
        terms = list(_terms(node)) if _is_plain_sum(node) else []
        padded = [term for term in terms if _is_padded(term)]
        self._dim = _dimension(padded[0]) if padded else 0
        self._terms = [self._term(term) for term in terms] if padded else []
        self._made: dict[tuple[fx.Node, int, int], fx.Node] = {}

    def _term(self, node: fx.Node) -> _Term:
        length = self._value.shape[self._dim]
        if not _is_padded(node) or _dimension(node) != self._dim:
            return _Term(node, 0, length)
        start, stop, _ = slice(*_bounds(node, 3)).indices(length)
        return _Term(cast("fx.Node", node.args[1]), start, stop)

    def rewrite(self) -> bool:
        """Split the sum, unless it has no padded terms or would be too large."""
        ends = sorted({end for term in self._terms for end in (term.start, term.stop)})
        if not self._terms or len(ends) > _MOST_STRETCHES:
            return False
        length = self._value.shape[self._dim]
        before = len(self._graph.nodes)
        with self._graph.inserting_before(self._node):
            stretches = [self._stretch(*bounds) for bounds in itertools.pairwise(sorted({0, *ends, length}))]
            whole = stretches[0] if len(stretches) == 1 else self._call(aten.cat.default, (stretches, self._dim))
        if len(self._graph.nodes) - before > _MOST_OPERATIONS:
            self._graph.eliminate_dead_code()
            return False
        self._node.replace_all_uses_with(whole)
        return True

    def _stretch(self, start: int, stop: int) -> fx.Node:
        """The sum between two ends of terms, where each term is either complete or zero."""
        terms = [
            self._part(term.node, start - term.start, stop - term.start)
            for term in self._terms
            if term.start <= start and stop <= term.stop
        ]
        if not terms:
            shape = self._shape(self._value, start, stop)
            return self._call(aten.full.default, (shape, 0), dtype=self._value.dtype, device=self._value.device)
        total = terms[0]
        for term in terms[1:]:
            total = self._call(aten.add.Tensor, (total, term))
        return total

    def _shape(self, value: torch.Tensor, start: int, stop: int) -> list[int]:
        shape = list(value.shape)
        shape[self._dim] = stop - start
        return shape

    def _part(self, node: fx.Node, start: int, stop: int) -> fx.Node:
        """The slice ``[start:stop]`` of a node; an elementwise operation is applied to slices of its arguments."""
        if (start, stop) == (0, node.meta["val"].shape[self._dim]):
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
                begin, _, _ = slice(*_bounds(node, 2)).indices(source.meta["val"].shape[self._dim])
                return self._part(source, begin + start, begin + stop)
        if node.target is aten.full.default:
            return self._call(aten.full.default, (self._shape(value, start, stop), node.args[1]), **node.kwargs)
        if torch.Tag.pointwise in getattr(node.target, "tags", ()) and isinstance(value, torch.Tensor):
            copied = self._graph.node_copy(node, lambda entry: self._argument(entry, value, start, stop))
            return self._with_value(copied)
        return self._call(aten.slice.Tensor, (node, self._dim, start, stop))

    def _argument(self, entry: fx.Node, result: torch.Tensor, start: int, stop: int) -> fx.Node:
        """The slice of an operation's argument, which may be broadcast along the dimension."""
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
        """The node with its stand-in, which other sums may read."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda entry: entry.meta["val"])
        with self._mode:
            node.meta["val"] = cast("Any", node.target)(*args, **kwargs)
        return node


def _terms(node: fx.Node) -> Iterator[fx.Node]:
    """The terms of a sum, with those of sums that are only terms of it."""
    for term in cast("tuple[fx.Node, ...]", node.args):
        if _is_plain_sum(term) and _is_term(term):
            yield from _terms(term)
        else:
            yield term


def _is_padded(node: fx.Node) -> bool:
    """Whether a node is a slice surrounded by zeros."""
    if node.target is not aten.slice_scatter.default or (len(node.args) > 5 and node.args[5] != 1):
        return False
    zeros: Any = node.args[0]
    return zeros.target is aten.full.default and zeros.args[1] == 0


def _dimension(node: fx.Node) -> int:
    dim: Any = node.args[2] if len(node.args) > 2 else 0
    return int(dim) % int(node.meta["val"].dim())


def _bounds(node: fx.Node, first: int) -> tuple[Any, ...]:
    """Start and end of a slice, which are the arguments from number ``first`` on; None where they are left out."""
    return (*node.args[first : first + 2], None, None)[:2]
