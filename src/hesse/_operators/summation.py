"""One point of a sum over data: passes over the batches, what is kept between them, and what the first one finds."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd.agreement import coarsest
from hesse._base.memory import budget
from hesse._base.progress import Bar
from hesse._base.space import Space
from hesse._data import rows
from hesse._data.automatic import DataEngine
from hesse._data.batches import Batches
from hesse._data.draws import Seeded, State
from hesse._data.explanation import DataExplanation
from hesse._data.kept import Kept
from hesse._data.linearizers import Engines, Linearizer
from hesse._data.losses import Reduction
from hesse._data.objective import Objective
from hesse._data.plan import PILOT, Plan, make_plan
from hesse._data.reduction import rounding
from hesse._data.settings import Settings
from hesse._data.terms import Term
from hesse._linearize.chunks import Batching
from hesse._linearize.compiled import random_like
from hesse._linearize.protocol import Selection
from hesse._linearize.room import Room
from hesse._linearize.tape import Tape

Place = tuple[int, int]
"""Which batch, and its first row."""

MakeTerm = Callable[[Objective, Linearizer, Any, Reduction, Place], Term]
"""A batch's term, made from the objective, what linearizes, the batch, the reduction of its loss, and its place."""

Visit = Callable[[Place, Term, float], None]
"""Called with each term and its weight."""


class Summation:
    r"""Σ w·A over the batches of data, divided by Σ w for a mean, where A is made of a batch by ``make``."""

    def __init__(
        self,
        objective: Objective,
        make: MakeTerm,
        batches: Batches,
        settings: Settings,
        engine: DataEngine,
        plan: Plan | None = None,
        seed: int | None = None,
    ) -> None:
        self.objective = objective
        self.batches, self.settings = batches, settings
        self._make, self._engine = make, engine
        self._linearizer = Linearizer(engine.now, objective)
        self._kept = Kept(budget(settings.memory, objective.leaves[0].device))
        # From a copy of the user's generator, which is advanced only if the loss draws, too.
        with State(None):
            self.seed = int(torch.randint(2**61, ())) if seed is None else seed
        self._drew = False
        # Bytes that a term keeps: measured once for all batches laid out alike.
        self._sizes: dict[Any, int] = {}
        # Nodes of the tape's graphs, of one term of each layout.
        self.nodes = 0
        self._batchings: dict[tuple[Place, Selection], Batching] = {}
        self._settled = False
        # What compiling a program for many vectors may take, by what batches them.
        self._prices: dict[tuple[Place, Selection], float] = {}
        self._values: dict[Place, float] = {}
        self._complete = False
        self._value = torch.zeros(())
        self._gradient = torch.zeros(())
        # An earlier plan for one batch says nothing of more, if the data has grown.
        keep = plan is not None and (plan.several or not self.batches.may_be_several())
        if plan is not None and keep:
            self.plan = plan
        else:
            self._begin()
        if self._drew:
            # The next operator draws anew.
            torch.randint(2**61, ())

    def _begin(self) -> None:
        """Plan by the first batch; one too small to try a part of is linearized, so that what is wrong is said now."""
        first, several = self.batches.first()
        plan = make_plan(self.objective, first, several, self.settings, self._measure, self._kept.budget, self.seed)
        _, piece = next(rows.pieces(first, plan.rows))
        if self.engines.compiles:
            plan = plan._replace(largest=self._measure(piece, plan.reduction))
        self.plan = plan
        if (rows.count(first) or 1) <= PILOT:
            self._fresh((0, 0), piece, plan.reduction, lambda place, term: None)

    @property
    def value(self) -> Tensor:
        """The loss over all data."""
        self._ensure()
        return self._value.clone()

    @property
    def gradient(self) -> Tensor:
        """Its gradient as a flat vector."""
        self._ensure()
        return self._gradient.clone()

    def _ensure(self) -> None:
        if not self._complete:
            self.go(lambda place, term, weight: None)

    def loss_at(self, x: Sequence[Tensor]) -> Tensor:
        """The loss over all data at other values of the variables, which autograd follows."""
        values, weights = [], []
        for number, batch in enumerate(self.batches):
            with Seeded(self.objective.device, self._seed_of((number, 0))):
                value, counted = self.objective.within(x, functools.partial(self.objective.value, x, batch))
            weight = self._weight(self.objective.count(batch, counted), (number, 0))
            if weight:
                values.append(weight * value.reshape(()))
                weights.append(weight)
        return torch.stack(values).sum() / (sum(weights) if self.plan.reduction == "mean" else 1.0)

    def multiply(self, vectors: Tensor, selection: Selection, source: Space, target: Space) -> Tensor:
        """The part of the product in ``selection.inputs``, for rows (k, n) of vectors in ``selection.outputs``."""
        return self._engine.multiply(self, len(vectors), lambda: self._multiply(vectors, selection, source, target))

    def _multiply(self, vectors: Tensor, selection: Selection, source: Space, target: Space) -> Tensor:
        if len(vectors) == 1:
            return self._multiply_one(vectors[0], selection, source, target).unsqueeze(0)
        total = torch.zeros(len(vectors), target.size, dtype=target.dtype, device=target.device)
        self._kept.summed = total.nbytes

        def add(place: Place, term: Term, weight: float) -> None:
            def multiply(part: Tensor) -> Tensor:
                batch = part.dim() - 1
                return target.join(term.multiply(source.split(part), selection, batched=batch == 1), batch)

            batching = self._batching(place, selection, term)
            total.add_(batching.multiply(multiply, vectors, target.lengths), alpha=weight)

        return total.div_(self.go(add))

    def _multiply_one(self, vector: Tensor, selection: Selection, source: Space, target: Space) -> Tensor:
        """A lone product, added up leaf by leaf: a flat copy for each batch would cost as much as small batches do."""
        entries = source.split(vector)
        total: list[Tensor] = []
        # In units of the first batch's weight, there is nothing to multiply its products by.
        number, first = 0, 1.0

        def add(place: Place, term: Term, weight: float) -> None:
            nonlocal total, number, first
            products = term.multiply(entries, selection, batched=False, last=self._kept.get(place) is None)
            number += 1
            if number == 1:
                # Of half precision many batches would add up to nothing more.
                total = [product.to(torch.promote_types(product.dtype, torch.float32)) for product in products]
                first = weight
                return
            pairs, alpha = zip(total, products, strict=True), weight / first
            # Nothing is added into a product: a user's own backward may have handed out what it keeps.
            if number == 2:
                total = [torch.add(leaf, product, alpha=alpha) for leaf, product in pairs]
            else:
                for leaf, product in pairs:
                    leaf.add_(product, alpha=alpha)

        divisor = self.go(add)
        factor = first / divisor
        joined = target.join(total)
        return joined if factor == 1 else joined * factor

    def _batching(self, place: Place, selection: Selection, term: Term) -> Batching:
        """A batch is checked for itself: whether a batched backward is right may depend on the data."""
        key, prices = (place, selection), self._prices
        # Not the term's own: one that is made anew must not be held.
        prices[key] = sum(one.batch_price for one in term.linearizations)
        if key not in self._batchings:
            # What is kept shrinks what is left until nothing more is; so one vector at a time is never refused.
            room = Room(self._kept.left, self.objective.leaves[0].device, asked=False, refuses=False)
            size = min([one.batch_size for one in term.linearizations if one.batch_size is not None], default=None)
            self._batchings[key] = Batching(
                self.settings.batching,
                coarsest(self.objective.leaves),
                fixed=lambda: size,
                price=lambda: prices[key],
                room=room,
            )
            if len(self._batchings) > 1:
                self._batchings[key].inherit(next(iter(self._batchings.values())))
            if self._settled:
                self._batchings[key].adopt("loop")
        return self._batchings[key]

    @property
    def engines(self) -> Engines:
        """What linearizes the batches."""
        return self._linearizer.engines

    @property
    def largest(self) -> int:
        """Bytes kept of the largest batch that was seen."""
        return self._kept.largest

    @property
    def device(self) -> torch.device:
        """Where vectors are."""
        return self.objective.leaves[0].device

    def use(self, engines: Engines) -> None:
        """Let go of what is kept, and linearize by these engines from now on."""
        self._kept.clear()
        self._sizes.clear()
        self.nodes = 0
        self._batchings.clear()
        self._prices.clear()
        # Programs are compared with the tape, which needs room for what it keeps.
        self.plan = self.plan._replace(largest=max(self.plan.largest, self._kept.largest))
        self._linearizer = Linearizer(engines, self.objective)

    def random_product(self) -> Tensor:
        """A product with a random vector, in one pass over the data."""
        space = Space(self.objective.leaves, self.objective.spec, self.objective.name)
        everything = tuple(range(len(space.leaves)))
        vector = space.join([random_like(leaf) for leaf in space.leaves])
        return self._multiply_one(vector, Selection(everything, everything), space, space)

    def settle(self, engine: str | None = None) -> dict[str, str]:
        """Let no clock decide any more: how batches are cut up, by which engine, and vectors one by one.

        With ``engine``, which another process decided for, by that one.
        """
        self._engine.decide(self, engine)
        self._settled = True
        for batching in self._batchings.values():
            batching.adopt("loop")
        return {"rows": str(self.plan.rows), "engine": self.engines.engine}

    def go(self, visit: Visit) -> float:
        """Visit all terms; the first time, add up value and gradient. Returns what a sum is divided by."""
        self.objective.require_same_mode()
        first = not self._complete
        space = Space(self.objective.leaves, self.objective.spec, self.objective.name) if first else None
        value, gradient, total = 0.0, [] if space is None else space.zeros(), 0.0

        def look(place: Place, term: Term) -> None:
            nonlocal value, total
            weight = self._weight(term.count, place)
            total += weight
            if weight == 0:
                # Nothing of the batch counts, and its mean is 0/0.
                return
            if first:
                value += weight * float(term.value)
                for leaf, part in zip(gradient, term.gradient, strict=True):
                    leaf.add_(part, alpha=weight)
            visit(place, term, weight)

        self._each(look)
        if total == 0:
            raise ValueError(
                f"The data given to {self.objective.name} holds nothing that counts: all weights are zero."
            )
        divisor = total if self.plan.reduction == "mean" else 1.0
        if space is not None:
            self._value = torch.tensor(value / divisor, dtype=space.dtype, device=space.device)
            self._gradient = space.join(gradient).div_(divisor)
            self._complete = True
        return divisor

    def _weight(self, count: float | None, place: Place) -> float:
        if self.plan.reduction == "sum":
            return 1.0
        if count is None and not self.plan.several and place == (0, 0):
            return 1.0
        if count is None:
            raise ValueError(
                f"Some rows of the data given to {self.objective.name} have more labels masked than others, so it"
                " cannot be told what the loss of a batch is a mean over. Give weight=, a function of a batch that"
                " counts it."
            )
        return count

    def _each(self, look: Callable[[Place, Term], None]) -> None:
        """Every term in turn, kept or made anew; no other reference to one made anew is held."""
        if self._complete and len(self._kept) == len(self._values):
            for place in self._values:
                term = self._kept.get(place)
                assert term is not None
                look(place, term)
            return
        name = self.objective.name
        bar = Bar(f"{name}: batches", self.batches.length()) if self.settings.progress else contextlib.nullcontext()
        with bar:
            for number, batch in enumerate(self.batches):
                for start, piece in rows.pieces(batch, self.plan.rows):
                    place = number, start
                    kept = self._kept.get(place)
                    if kept is not None:
                        look(place, kept)
                    else:
                        self._fresh(place, piece, self.plan.reduction, look)
                if isinstance(bar, Bar):
                    bar.update(number + 1, "")

    def _fresh(self, place: Place, piece: Any, reduction: Reduction, look: Callable[[Place, Term], None]) -> None:
        layout = tuple([(tensor.shape, tensor.dtype) for tensor in rows.tensors(piece)])
        if layout not in self._sizes and self.engines.compiles:
            # The first one that a program makes is compared with the tape, whose graph is there meanwhile.
            self._kept.make_room(self.plan.largest)
        term = self._linearized(place, piece, reduction, self._linearizer)
        self._compare(place, float(term.value))
        if layout not in self._sizes:
            self._sizes[layout] = term.kept_bytes(self.batches.held_elsewhere(piece))
            self.nodes += sum(one.num_nodes() for one in term.linearizations if isinstance(one, Tape))
        size = self._sizes[layout]
        self._kept.see(size)
        self._kept.offer(place, term, size)
        look(place, term)

    def _linearized(self, place: Place, piece: Any, reduction: Reduction, linearizer: Linearizer) -> Term:
        generators = Seeded(self.objective.device, self._seed_of(place))
        with generators:
            term = self._make(self.objective, linearizer, piece, reduction, place)
        if generators.drew:
            self._drew = True
            if self.settings.random == "refuse":
                raise RuntimeError(
                    f"The loss given to {self.objective.name} draws random numbers, as dropout does, which"
                    ' random="refuse" does not allow. Call model.eval(), or let random="fixed" draw once a batch.'
                )
        return term

    def _seed_of(self, place: Place) -> int:
        """Of a batch the same numbers are drawn each time; a multiple of an odd number keeps places apart."""
        return (self.seed + 0x9E3779B97F4A7C15 * (1 + place[0]) + place[1]) % 2**63

    @functools.cached_property
    def _rounding(self) -> float:
        return rounding(self.objective)

    def _compare(self, place: Place, value: float) -> None:
        """A batch's loss must come out the same each time it is evaluated."""
        before = self._values.setdefault(place, value)
        allowed = self._rounding
        same = math.isclose(value, before, rel_tol=allowed, abs_tol=allowed) or (value != value and before != before)
        if not same:
            raise RuntimeError(
                f"The loss of batch {place[0]} is {value:.6g} but was {before:.6g} when it was evaluated"
                f" before, so there is no one {self.objective.name}: it depends on something that changes, such as"
                " random numbers that are not PyTorch's. Take that out, or give more memory."
            )

    def _measure(self, piece: Any, reduction: Reduction) -> int:
        # By the tape, so that no program is made of a part of a batch.
        tape = Linearizer(Engines("tape"), self.objective)
        return self._linearized((0, 0), piece, reduction, tape).kept_bytes(self.batches.held_elsewhere(piece))

    def clear(self) -> None:
        """Free what is kept."""
        self._kept.clear()

    def explain(self) -> DataExplanation:
        """How products are made."""
        decided = {batching.chosen for batching in self._batchings.values()} - {None}
        return DataExplanation(
            engine="tape" if self.engines.refusal else self.engines.engine,
            engine_reason=self._engine.reason,
            reduction=self.plan.reduction,
            pieces=len(self._values) if self._complete else 0,
            kept=len(self._kept),
            bytes_kept=self._kept.bytes,
            budget=self._kept.budget,
            rows=self.plan.rows,
            reason=self.plan.reason,
            batching=" and ".join(sorted(str(one) for one in decided)) or "undecided",
            programs=self._engine.programs,
            compile_seconds=self._engine.seconds,
            refusal=self.engines.refusal or self._engine.refusal,
        )
