"""An operator at a point: a list of weighted terms, the loop over it, and what is decided there once."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Hashable, Iterable
from typing import Any, Self

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._autograd.gradients import owned, unaliased
from hesse._autograd.thread_state import untraced
from hesse._base import precision
from hesse._base.space import Space, Splits
from hesse._data.sharded_space import ShardedSpace
from hesse._linearize.choice import Choice, EngineName
from hesse._linearize.chunks import WIDTH, Chunks, Rows
from hesse._linearize.engines import Engines
from hesse._linearize.guard import Closed, Guard
from hesse._linearize.unit_vectors import UnitVectors
from hesse._operators import decision, materialize
from hesse._operators.conversions import Indices, row_numbers
from hesse._operators.explanation import Explanation
from hesse._operators.linear_map import Decisions
from hesse._operators.operator import Operator
from hesse._operators.rows import products_of_rows
from hesse._operators.terms import Part, Term
from hesse._ranks.group import Ranks

Weighted = tuple[float, Term, Hashable, bool]
"""A weight, its term, a key that tells the point's terms apart, and whether the term is thrown away after one use."""


class Point(abc.ABC):
    r"""The matrix :math:`\sum_t w_t A_t / d` of the terms :math:`A_t` at one point.

    Attributes:
        variables: the space of what is differentiated by.
        guard: notices when the point has changed since.
        engines: what linearizes, at this point and those that ``at()`` moves to.
        divisor: d, known once all terms have been gone over.
        autocast: what surrounded the point where it was made, and surrounds its evaluations and products.
        asked: products asked for here, and readings of what a function returned.
    """

    divisor = 1.0
    # Those that make the products together, where they do.
    ranks: Ranks | None = None

    guard: Guard

    def __init__(self, variables: Space, engines: Engines, *, strict: bool) -> None:
        self.variables, self.engines = variables, engines
        self.autocast = precision.Autocast.now()
        self._strict = strict
        self.create_graph = engines.options.create_graph
        # All leaves of a vector, and of a product.
        self.whole = Part.whole(len(variables.leaves))
        self.asked = 0
        # Which terms and widths were compared with single products here.
        self._compared: set[Hashable] = set()
        # Of a point that keeps all its terms.
        self._fixed: list[Weighted] | None = None

    @functools.cached_property
    def chunks(self) -> tuple[Chunks, ...]:
        """How many vectors go at once, in products and in those with the transpose; a point that moves inherits it."""
        options, precision = self.engines.options, coarsest(self.variables.leaves)
        return tuple([Chunks(options, self.variables.device, precision, strict=self._strict) for _ in range(2)])

    def terms(self) -> Iterable[Weighted]:
        """All terms in turn; whoever goes over them lets go of each before the next, which may be made anew."""
        assert self._fixed is not None
        return self._fixed

    @property
    @abc.abstractmethod
    def engine(self) -> EngineName:
        """What linearizes here; other points of the operator may have been made before the decision, or after it."""

    @abc.abstractmethod
    def relinearize(self) -> None:
        """Make the terms by the engine that ``engines`` names now; values and gradients stay."""

    @property
    def is_lone(self) -> bool:
        """Whether a single product is one program, which keeps nothing for others."""
        return False

    def keep(self) -> None:  # noqa: B027  # most points are made for many products
        """Several products are about to be asked for."""

    def keep_engine(self) -> None:  # noqa: B027  # most points hold nothing of another engine
        """The engine stays: let go of what was held to go back."""

    @abc.abstractmethod
    def left(self, needed: int | None = None) -> int:
        """Bytes that a call may add, or as many as are ``needed`` at most, where that takes long to find out."""

    def left_with_results(self) -> int | None:
        """Bytes that a call may add, its results included; None where only the terms are bounded."""
        return self.left()

    @abc.abstractmethod
    def explain(self, explanation: Explanation) -> Explanation:
        """What this kind of point adds to an explanation."""

    @abc.abstractmethod
    def kept_terms(self) -> list[Term]:
        """The terms that stay linearized between products."""

    def begin(self, count: int) -> None:
        """Products with so many vectors are asked for: the point must be as it was, and a decision may be due."""
        self.guard.check()
        self.asked += count
        engines = self.engines
        engines.made += count
        if engines.made > engines.next_decision:
            with self.autocast.again():
                decision.decide_engine(self, 0)

    def multiply(self, entries: list[Tensor], part: Part, transposed: bool = False) -> list[Tensor]:
        """The product with one vector, leaf by leaf: a flat copy for each term would cost what small terms do.

        Of one term alone, products may share memory with the vector.
        """
        if (self.autocast.is_on or precision.any_autocast()) and not self.autocast.is_now():
            with self.autocast.again():
                return self.multiply(entries, part, transposed)
        total: list[Tensor] = []
        # In units of the first weight, the first products need no factor.
        first, is_ours = 0.0, False
        for weight, term, _, last in self.terms():
            products = term.multiply(entries, part, transposed=transposed, last=last)
            del term
            if first == 0:
                total, first = products, weight
            elif not is_ours:
                is_ours = True
                # Nothing is added into a first product: a custom backward may have handed out what it keeps.
                total = [
                    torch.add(leaf.to(torch.promote_types(leaf.dtype, torch.float32)), product, alpha=weight / first)
                    for leaf, product in zip(total, products, strict=True)
                ]
            else:
                for leaf, product in zip(total, products, strict=True):
                    leaf.add_(product, alpha=weight / first)
        factor = first / self.divisor
        return total if factor == 1 else [leaf * factor for leaf in total]

    def multiply_rows(
        self,
        rows: Rows,
        part: Part,
        source: Splits,
        target: Space,
        *,
        transposed: bool = False,
        into: materialize.Into | None = None,
        left: int | None = None,
    ) -> Tensor:
        """The product with each row, as a matrix with one product a row, or added into ``into``."""
        if not self.autocast.is_now():
            with self.autocast.again():
                return self.multiply_rows(rows, part, source, target, transposed=transposed, into=into, left=left)
        count, chunks = rows.shape[0], self.chunks[transposed]
        products = max(count, self.engines.made, self.engines.options.expect or 0)
        pieces = functools.partial(
            products_of_rows, chunks, rows, part, source, target, transposed, products, self._compared
        )
        if self.create_graph:
            # Writing into one matrix would make the graph of every product pass through the others' copies.
            with torch.enable_grad():
                found = [piece for _, term, key, _ in self.terms() for piece in pieces(term, key)]
                return torch.cat(found) if found else rows[0:0].new_zeros(0, target.size)
        total = into or materialize.Matrix(count, target)
        if count > 1 and (chunks.room.asked or chunks.chosen == "vmap" or count >= WIDTH):
            if left is None:
                left = self.left(chunks.needed(total.nbytes, count))
            chunks.room.begin(left, total.nbytes, count)
        first = True
        for weight, term, key, _ in self.terms():
            start = 0
            for piece in pieces(term, key):
                total.add(start, piece, weight, first=first)
                start += piece.shape[0]
                del piece
            del term
            first = False
        return total.divided(self.divisor)

    def inherit(self, earlier: Point) -> None:
        """Go on with what was decided at an earlier point; whether batches are right is compared anew."""
        self.chunks = earlier.chunks

    def reopen_chunks(self) -> None:
        """Decide anew how many vectors go at once, for another engine."""
        for chunks in self.chunks:
            chunks.reopen()
        self._compared.clear()

    def expect(self, products: int) -> None:
        """So many products are about to be asked for."""
        self.guard.check()
        with self.autocast.again():
            decision.decide_engine(self, products)
            if products > 1:
                self.keep()

    def decided(self, operator: PointOperator, earlier: Decisions | None) -> Decisions:
        """How products of an operator at this point are made from now on; see ``LinearMap.decide``."""
        return operator.decide_alone(earlier)

    def close(self) -> None:
        """Free what is kept; products raise from then on."""
        self.guard = Closed()


class PointOperator(Operator):
    """An operator whose products replay a kept point, or a block of one."""

    domain: Space
    range: Space

    def __init__(self, point: Point, part: Part, domain: Space, range_: Space, *, symmetric: bool) -> None:
        self._point, self._part = point, part
        self.domain, self.range = domain, range_
        self.shape = (range_.whole_size, domain.whole_size)
        self.shards = domain.shards if isinstance(domain, ShardedSpace) else None
        self.dtype, self.device = domain.dtype, domain.device
        if range_.dtype != self.dtype:
            self.dtype = torch.promote_types(self.dtype, range_.dtype)
        self.symmetric = symmetric
        self.differentiable = point.create_graph
        self.ranks = point.ranks

    def _move(self, where: Any, engines: Engines, earlier: Any) -> None:
        """Take another point as it is now, by the engines of an earlier one."""
        raise NotImplementedError

    def _moved(self, where: Any) -> Self:
        """The operator at another point, with what was decided at this one."""
        self._point.engines.leave(self._point.asked)
        fresh = self.__copy__()
        untraced(fresh._move)(where, self._point.engines, self._point)
        fresh._point.inherit(self._point)
        return fresh

    def matmat(self, V: Tensor) -> Tensor:
        """A·V for columns (n, k)."""
        return self._columns(V, False)

    def rmatmat(self, U: Tensor) -> Tensor:
        """Aᵀ·U for columns (m, k)."""
        return self._columns(U, not self.symmetric)

    def _columns(self, V: Tensor, transposed: bool) -> Tensor:
        if V.shape[1] == 1:
            return self._matvec(V[:, 0], transposed).unsqueeze(-1)
        # One vector a row: a matrix of columns is the transposed view of that, and no copy.
        return self._rows(V.mT, transposed).mT

    def _rows(self, rows: Rows, transposed: bool) -> Tensor:
        self._point.begin(rows.shape[0])
        source, target, part = self._sides(transposed)
        return self._point.multiply_rows(rows, part, source, target, transposed=transposed).to(self.dtype)

    def _matvec(self, v: Tensor, transposed: bool = False) -> Tensor:
        """A·v or Aᵀ·v for a flat vector, without the machine for many."""
        source, target, part = self._sides(transposed) if transposed else (self.domain, self.range, self._part)
        point = self._point
        point.begin(1)
        if point.create_graph:
            with torch.enable_grad():
                product = target.join(point.multiply(source.split(v), part, transposed))
        else:
            product = target.join(point.multiply(source.split(v), part, transposed))
        # The concatenation of several leaves has memory of its own.
        if len(target.lengths) == 1:
            product = owned(product, v)
        return product if product.dtype == self.dtype else product.to(self.dtype)

    def _rmatvec(self, u: Tensor) -> Tensor:
        return self._matvec(u, not self.symmetric)

    def _sides(self, transposed: bool) -> tuple[Space, Space, Part]:
        if transposed:
            return self.range, self.domain, Part(self._part.targets, self._part.sources)
        return self.domain, self.range, self._part

    def multiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """A times a structured vector, without a copy to a flat vector and back."""
        return self._leaves(entries, False)

    def rmultiply_leaves(self, entries: list[Tensor]) -> list[Tensor]:
        """Aᵀ times a structured vector."""
        return self._leaves(entries, not self.symmetric)

    def _leaves(self, entries: list[Tensor], transposed: bool) -> list[Tensor]:
        self._point.begin(1)
        _, target, part = self._sides(transposed)
        with torch.set_grad_enabled(torch.is_grad_enabled() or self.differentiable):
            products = unaliased(self._point.multiply(entries, part, transposed), entries)
            return [product.to(leaf.dtype) for product, leaf in zip(products, target.leaves, strict=True)]

    def rows(self, indices: Indices) -> Tensor:
        """Some rows of the matrix, (k, n): one product each, in chunks that stay within ``memory``."""
        self._require_whole("rows()")
        units = UnitVectors(self.range.size, self.range.dtype, self.device, row_numbers(indices, self.shape[0]))
        return self._rows(units, not self.symmetric)

    def to_dense(self) -> Tensor:
        """The matrix (m, n), from one product for each column or row, whichever are fewer.

        Of a symmetric matrix only the part on and above the diagonal is computed, leaf by leaf.

        Raises:
            MemoryBudgetError: the matrix and a product do not stay within ``memory``.
        """
        self._require_whole("to_dense()")
        if self.differentiable:
            return super().to_dense()
        self._point.begin(min(self.shape))
        left = self._point.left_with_results()
        if self.symmetric:
            return materialize.symmetric(self._point.multiply_rows, self._part, self.domain, self.dtype, left)
        transposed = self.shape[0] < self.shape[1]
        source, target, part = self._sides(transposed)
        rows = materialize.rows(
            self._point.multiply_rows, part, source, target, self.dtype, left, transposed=transposed
        )
        return rows if transposed else rows.mT

    def _room(self) -> int | None:
        return self._point.left_with_results()

    def _precision(self) -> torch.dtype:
        inside = [one.precision() for term in self._point.kept_terms() for one in term.linearizations]
        dtypes = [coarsest([*self.domain.leaves, *self.range.leaves]), *[dtype for dtype in inside if dtype]]
        dtype = max(dtypes, key=lambda each: torch.finfo(each).eps)
        return precision.coarsest(dtype, self.device, self._point.autocast)

    def expect(self, products: int) -> None:
        """So many products are about to be asked for: ``engine="auto"`` decides by that."""
        self._point.expect(products)

    def decide(self, earlier: Decisions | None = None) -> Decisions:
        """Follow an earlier run; otherwise, where no trial was made, many vectors are a loop: no clock decides."""
        return self._point.decided(self, earlier)

    def decide_alone(self, earlier: Decisions | None) -> Decisions:
        """The same of products that this process makes alone."""
        with self._point.autocast.again():
            self._point.keep()
        if earlier:
            self._follow(Choice(**earlier))
        elif self._point.chunks[0].chosen is None:
            self._rows(UnitVectors(self.domain.size, self.domain.dtype, self.device, [0] * WIDTH), False)
        self._point.engines.stay()
        for chunks in self._point.chunks:
            chunks.stay()
        return dataclasses.asdict(self.explain().choice)

    def _follow(self, choice: Choice) -> None:
        decision.follow(self._point, choice)
        decision.require_followed(self.domain.name, self.explain(), choice)

    def _engine_name(self) -> str:
        return self._point.engine

    def explain(self) -> Explanation:
        """How products are made, and why; ``print`` it."""
        point = self._point
        kept = sum(one.kept_bytes() for term in point.kept_terms() for one in term.linearizations)
        explanation = Explanation.of(point.engine, point.engines, point.chunks[0], kept, point.left(), point.is_lone)
        return point.explain(explanation).with_plan(self._sparse_plan)

    def flatten(self, tree: Any) -> Tensor:
        """A vector structured like the inputs as a flat one (n,)."""
        return self.domain.flatten(tree)

    def unflatten(self, vector: Tensor) -> Any:
        """A flat vector (n,) as one structured like the inputs."""
        return self.domain.unflatten(vector)

    def close(self) -> None:
        """Free what is kept; products raise from then on."""
        self._point.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
