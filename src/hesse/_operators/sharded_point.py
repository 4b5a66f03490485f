"""``ShardedPoint``: the sum over the data of all ranks, where each rank holds a piece of every parameter."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._base.errors import warn_caller
from hesse._base.memory import readable
from hesse._data import rows
from hesse._data.batches import Batches
from hesse._data.cut_model import CutModel
from hesse._data.kept import needed
from hesse._data.losses import Reduction
from hesse._data.models import Objective
from hesse._data.options import DataOptions
from hesse._data.plan import PILOT, Plan, normalizing_layer
from hesse._data.reduction import examine, settle
from hesse._linearize.chunks import Chunks, Rows
from hesse._linearize.engines import Engines
from hesse._linearize.guard import Guard, Remembered
from hesse._linearize.shared_chunks import SharedChunks
from hesse._operators.data_point import DataPoint, MakeTerm, Place
from hesse._operators.linear_map import Decisions
from hesse._operators.point import Point, PointOperator, Weighted
from hesse._operators.terms import Part, Term
from hesse._ranks.group import Ranks


class ShardedPoint(DataPoint):
    r"""Σ w·A over the batches of all ranks, divided by Σ w for a mean; vectors are cut up as the parameters are.

    A term is the sum over ranks of one batch of each, made by all of them together: its evaluation gathers the
    parameters, and its product sums over ranks. A rank that has fewer batches takes part with one that counts nothing.
    So all ranks keep the same terms, and take the same steps.

    Args:
        ranks: those that hold the model together.
        model: the objective's.
        objective, make, batches, options, engines, guard, seed: as of :class:`DataPoint`.
    """

    ranks: Ranks

    def __init__(
        self,
        ranks: Ranks,
        model: CutModel,
        objective: Objective,
        make: MakeTerm,
        batches: Batches,
        options: DataOptions,
        engines: Engines,
        guard: Guard,
        seed: int | None = None,
    ) -> None:
        programs = "no program" if model.shares else "neither a program nor a batch of vectors"
        for what, given in (("engine", options.engine_name), ("batching", options.batching_name)):
            if given == "compiled" or (given == "vmap" and not model.shares):
                raise NotImplementedError(
                    f"{objective.name} of this sharded model has collectives in each product, which {programs} can, but"
                    f" {what} is {given!r}. Leave {what}= out."
                )
        self.ranks = ranks
        self._model = model
        self._due = 0
        # Bytes that an evaluation and a product of one batch with kept graphs take, on the rank where that is most.
        self._evaluation = 0
        self._warned = False
        # A batch of which nothing counts, for ranks that have fewer than others.
        self._filler: Any = None
        self._weights: dict[Place, float] = {}
        self._bytes: dict[Place, int] = {}
        self._what = f"{objective.name} {ranks.number()}"
        super().__init__(objective, make, batches, options, engines, guard, seed=seed, is_part=True)
        engines.stay()

    @functools.cached_property
    def chunks(self) -> tuple[Chunks, ...]:
        """As many vectors at once on all ranks; one by one where collectives cannot be batched."""
        options, space = self.engines.options, self.variables
        if not self._model.shares:
            alone = dataclasses.replace(options, batching="loop")
            return tuple([Chunks(alone, space.device, space.dtype, strict=False) for _ in range(2)])
        # Of what is whole at a time, a vector and its product have entries too, and one more copy on their way.
        each = 3 * self._model.whole_bytes() + needed(self._kept.largest)
        if not self._model.keeps:
            each += self._evaluation // self._model.num_units
        how = options, space.device, coarsest(space.leaves)
        return tuple([SharedChunks(self.ranks, self._what, each, *how) for _ in range(2)])

    def _make_plan(self) -> None:
        """Batches stay whole; whether their losses are means is looked at on the first one of each rank."""
        objective, options = self.objective, self.options
        first, _ = self.batches.first()
        having = self._having(first, 0)
        if not any(having):
            raise ValueError(f"The data given to {objective.name} holds no batch, on any rank.")
        if not all(having):
            giver = having.index(True)
            given = self.ranks.gather("a batch", lambda: first if self.ranks.rank == giver else None)
            first = given[giver] if first is None else first
        self._filler = first
        layer = normalizing_layer(objective, options, several=True)
        wanted, stated = options.reduction, objective.stated_reduction()
        number = rows.count(first) or 0
        reduction = wanted or ("sum" if stated == "sum" else "mean")
        told = layer is not None or (wanted is not None and options.weighted)
        # Halves are evaluated by all ranks or by none.
        if not told and all(self.ranks.gather(f"rows of {self._what}", lambda: number > 1)):
            reduction = settle(examine(objective, first, self.seed), wanted, stated, objective.name)
        self.plan = Plan(reduction, True, None, self._choose(first, number, reduction), number=number)
        if not number:
            self.plan = self.plan._replace(rowless=type(first).__name__)

    def _choose(self, first: Any, number: int, reduction: Reduction) -> str:
        """Whether graphs of units are kept: not where those of one batch exceed the memory of some rank."""
        model = self._model
        model.keeps, model.weight = True, lambda count: 1.0
        try:
            size = self._measure(rows.part(first, 0, PILOT) if number > PILOT else first, reduction)
        finally:
            model.weight = None
        size = needed(size * max(number, PILOT) // PILOT if number else size)
        largest = max(self.ranks.gather(f"the bytes of the first batch of {self._what}", lambda: size))
        self._evaluation = largest
        budget = self._kept.budget
        model.keeps = largest <= budget
        how = "are kept" if model.keeps else "are evaluated again in each product"
        reason = f"a batch takes about {readable(largest)} of {readable(budget)}, so graphs of sharded modules {how}"
        if model.apart:
            reason += (
                f"; parameters of {', '.join(sorted(model.apart))} are gathered in full, since they are used apart"
            )
        return reason

    def begin(self, count: int) -> None:
        """Products are asked for; each rank begins them where an error reaches the others."""
        self._due = count

    def _begun(self) -> None:
        count, self._due = self._due, 0
        if count:
            super().begin(count)

    def multiply(self, entries: list[Tensor], part: Part, transposed: bool = False) -> list[Tensor]:
        """This rank's entries of the product with one vector, leaf by leaf."""

        def together() -> list[Tensor]:
            self._begun()
            return Point.multiply(self, entries, part, transposed)

        return self.ranks.together(f"a product of {self._what} ({_code(part)})", together)

    def multiply_rows(self, rows: Rows, part: Part, *sides: Any, **how: Any) -> Tensor:
        """This rank's entries of the product with each row."""

        def together() -> Tensor:
            self._begun()
            return Point.multiply_rows(self, rows, part, *sides, **how)

        return self.ranks.together(f"{rows.shape[0]} products of {self._what} ({_code(part)})", together)

    def expect(self, products: int) -> None:
        """So many products are about to be asked for, on all ranks."""
        self.ranks.gather(f"{products} products of {self._what}", self.guard.check)

    def decided(self, operator: PointOperator, earlier: Decisions | None) -> Decisions:
        """How many vectors go at once; in a run that goes on there are as many, and as many ranks."""
        (chunks, _) = self.chunks
        if earlier is not None:
            for one in self.chunks:
                one.follow(earlier["batching"], earlier["chunk"])
        elif chunks.chosen == "vmap":
            # Whether batches can be multiplied at all.
            space = operator.domain
            operator.matmat(torch.ones(space.size, 2, dtype=space.dtype, device=space.device))
        if isinstance(chunks, SharedChunks) and chunks.chosen == "vmap":
            chunks.room.begin(self.left(), 0, 1)
            chunks.agree()
        made = {"ranks": self.ranks.size, "batching": chunks.chosen, "chunk": chunks.chunk}
        if earlier is not None and earlier != made:
            raise ValueError(
                f"The {self.objective.name} was multiplied in another way before ({earlier}) than now ({made}), so its"
                " digits would differ. Run as many ranks with the same memory=, or begin anew with another checkpoint."
            )
        return made

    def terms(self) -> Iterator[Weighted]:
        """Every term, of one batch of each rank; the first pass adds up value and gradient on the way."""
        self.objective.require_same_mode()
        first = not self._complete
        value, gradient = 0.0, self.variables.zeros() if first else []
        for place, term, last in self._each():
            if first:
                weight = self._weights[place]
                value += weight * float(term.value) if weight else 0.0
                for leaf, part in zip(gradient, term.gradient, strict=True):
                    leaf.add_(part)
            # What a batch counts is in the term already.
            yield 1.0, term, place, last
            del term
        if first:
            self._finish(value, gradient)

    def _finish(self, value: float, gradient: Sequence[Tensor]) -> None:
        own = sum(self._weights.values()), value
        found = self.ranks.gather(f"the weights of {self._what}", lambda: own)
        self.weight, total = self._added_up(found)
        if not self.weight:
            raise ValueError(
                f"The data given to {self.objective.name} holds nothing that counts: all weights are zero, on any rank."
            )
        self.divisor = self.weight if self.plan.reduction == "mean" else 1.0
        space = self.variables
        self._value = torch.tensor(total / self.divisor, dtype=space.dtype, device=space.device)
        self._gradient = space.join(gradient).div_(self.divisor)
        self._complete = True

    def _added_up(self, found: list[tuple[float, float]]) -> tuple[float, float]:
        """Weight and value over all ranks."""
        weights, values = zip(*found, strict=True)
        return sum(weights), sum(values)

    def _each(self) -> Iterator[tuple[Place, Term, bool]]:
        """Every term in turn; in the first pass ranks tell one another whether they have more batches."""
        if self._complete and len(self._kept) == len(self._values):
            yield from super()._each()
            return
        with self._passes:
            batches = iter(self.batches)
            number = 0
            while True:
                batch = next(batches, None)
                place = number, 0
                if not (place in self._values if self._complete else any(self._having(batch, number))):
                    return
                kept = self._kept.get(place)
                if kept is not None:
                    yield place, kept, False
                else:
                    made = [self._together(place, batch)]
                    yield place, made.pop(), self._kept.get(place) is None
                number += 1

    def _having(self, batch: Any, number: int) -> list[bool]:
        """Which ranks have a batch of that number."""
        return self.ranks.gather(f"batch {number} of {self._what}", lambda: batch is not None)

    def _together(self, place: Place, batch: Any) -> Term:
        """The term of one batch of each rank, kept if there is room on every rank."""

        def weight(count: float | None) -> float:
            found = 0.0 if batch is None else self._weight(count, place)
            return self._weights.setdefault(place, found)

        self._model.weight = weight
        piece = self._filler if batch is None else batch
        try:
            term = self._linearized(place, piece, self.plan.reduction, self._linearize)
        finally:
            self._model.weight = None
        self._compare(place, float(term.value))
        if place not in self._bytes:
            size = term.kept_bytes(self.batches.held_elsewhere(piece))
            largest = max(self.ranks.gather(f"the bytes of a batch of {self._what}", lambda: size))
            self._bytes[place] = largest
            if needed(largest) > self._kept.budget and self.ranks.is_first and not self._warned:
                self._warned = True
                warn_caller(
                    f"A batch takes about {readable(needed(largest))} and memory= allows"
                    f" {readable(self._kept.budget)}, but batches of a sharded model are not cut up. Give smaller ones."
                )
        self._kept.see(self._bytes[place])
        # All ranks keep the same terms: the tape notices by itself where its batch has changed.
        self._kept.offer(place, term, self._bytes[place], Remembered(()))
        return term

    def loss_at(self, x: Any) -> Tensor:
        """Not over ranks, since autograd would follow this rank's part alone."""
        raise NotImplementedError(
            f"loss_at() of a {self.objective.name} of a sharded model would give this rank's part of the loss. Take"
            " at() after a change of the parameters, and its value."
        )


def _code(part: Part) -> str:
    return f"{zlib.crc32(repr(part).encode()):08x}"
