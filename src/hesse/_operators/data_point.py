"""``DataPoint``: the terms of a sum over data at one point, which are kept, and what the first pass finds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._base.memory import budget
from hesse._base.progress import Bar
from hesse._base.space import Space
from hesse._data import rows
from hesse._data.batches import Batches
from hesse._data.draws import GeneratorState, Seeded
from hesse._data.joined import Joined
from hesse._data.kept import Kept
from hesse._data.losses import Reduction
from hesse._data.models import Objective
from hesse._data.options import DataOptions
from hesse._data.plan import PILOT, Plan, Premise, make_plan
from hesse._data.reduction import rounding
from hesse._linearize import tape
from hesse._linearize.choice import EngineName
from hesse._linearize.engines import Engines, Linearize
from hesse._linearize.guard import Guard, Remembered
from hesse._linearize.protocol import Leaves, Linearization, Map
from hesse._linearize.shared import Shared
from hesse._operators.explanation import Explanation
from hesse._operators.point import Point, Weighted
from hesse._operators.terms import Term

Place = tuple[int, int]
"""Which batch, and its first row."""

MakeTerm = Callable[[Objective, Linearize, Any, Reduction, Place], Term]
"""A batch's term, made from the objective, what linearizes, the batch, the reduction of its loss, and its place."""


class DataPoint(Point):
    r"""Σ w·A over the batches of data, divided by Σ w for a mean, where A is made of a batch by ``make``.

    Args:
        objective: the loss of a batch as a function of the variables.
        make: makes a batch's term.
        batches: the data.
        options: of the operator.
        engines: what linearizes.
        guard: of the point.
        plan: of an earlier point, where there is one.
        seed: of the batches' random numbers; drawn when left out.
        is_other: whether the earlier point had other data.
        is_part: whether other ranks have the rest of the data, of which this part may be empty.

    Attributes:
        weight: what the weights add up to, after a pass.
    """

    def __init__(
        self,
        objective: Objective,
        make: MakeTerm,
        batches: Batches,
        options: DataOptions,
        engines: Engines,
        guard: Guard,
        plan: Plan | None = None,
        seed: int | None = None,
        is_other: bool = False,
        is_part: bool = False,
    ) -> None:
        super().__init__(objective.space(), engines, strict=False)
        self.guard = guard
        self.objective, self.batches, self.options = objective, batches, options
        self._make, self._is_part = make, is_part
        self.weight = 0.0
        self._kept: Kept[Term] = Kept(budget(options.memory, self.variables.device))
        self.seed = drawn_seed() if seed is None else seed
        self._drew = False
        # Bytes that a term keeps: measured once for all batches laid out alike.
        self._sizes: dict[Any, int] = {}
        self._values: dict[Place, float] = {}
        self._passes = threading.RLock()
        self._joined: Joined | None = None
        self._complete = False
        self._sums: _Sums | None = None
        self._value = torch.zeros((), device="cpu")
        self._gradient = torch.zeros((), device="cpu")
        self._begin_anew()
        if plan is not None and self._fits(plan, is_other):
            self.plan = plan
        else:
            self._make_plan()
        if self._drew:
            # The next operator draws anew.
            torch.randint(2**61, (), device="cpu")

    def _make_plan(self) -> None:
        """Plan by the first batch; one too small to try a part of is linearized, so that what is wrong is said now."""
        first, several = self.batches.first()
        if first is None and self._is_part:
            self.plan = Plan("mean", True, None, "there is no batch")
            return
        options, premise = self.options, Premise(self.objective)
        plan = make_plan(
            self.objective, first, several or self._is_part, options, self._measure, self._kept.budget, self.seed
        )
        number = rows.count(first) or 0
        plan = plan._replace(number=number, rowless=None if number else type(first).__name__)
        _, microbatch = next(rows.microbatches(first, plan.rows))
        if self.engine == "compiled":
            plan = plan._replace(largest=self._measure(microbatch, plan.reduction))
        is_reduced = plan.several or options.needs_reduction
        self.plan = plan._replace(premise=premise.settled(is_reduced=is_reduced))
        if (rows.count(first) or 1) <= PILOT:
            self._fresh((0, 0), microbatch)

    def _fits(self, plan: Plan, is_other: bool) -> bool:
        """Whether an earlier plan holds: one for one batch says nothing of more, nor of a larger one."""
        if plan.premise is not None and not plan.premise.holds(self.objective):
            return False
        if is_other:
            return not self.batches.may_be_several() and (rows.count(self.batches.first()[0]) or 1) <= plan.number
        return plan.several or not self.batches.may_be_several()

    @property
    def value(self) -> Tensor:
        """The loss over all data."""
        self.complete()
        return self._value.clone()

    @property
    def gradient(self) -> Tensor:
        """Its gradient as a flat vector."""
        self.complete()
        return self._gradient.clone()

    def complete(self) -> None:
        """Make the first pass, unless it was made."""
        if not self._complete:
            with self.autocast.again():
                for _ in self.terms():
                    pass

    def loss_at(self, x: Sequence[Tensor]) -> Tensor:
        """The loss over all data at other values of the variables, which autograd follows, by the same draws."""
        if not self.autocast.is_now():
            with self.autocast.again():
                return self.loss_at(x)
        values, weights = [], []
        for number, batch in enumerate(self.batches):
            for start, microbatch in rows.microbatches(batch, self.plan.rows):
                generators = Seeded(self._seed_of((number, start)))
                with generators.net, generators:
                    value, counted = self.objective.value(x, microbatch)
                weight = self._weight(self.objective.count(microbatch, counted), (number, start))
                if weight:
                    values.append(weight * value.reshape(()))
                    weights.append(weight)
        return torch.stack(values).sum() / (sum(weights) if self.plan.reduction == "mean" else 1.0)

    def terms(self) -> Iterator[Weighted]:
        """Every term that counts; the first pass adds up value and gradient on the way."""
        self.objective.require_same_mode()
        total = 0.0
        self._kept.forget_stale()
        # Of terms that are all kept from an earlier pass there is nothing to add.
        is_new = not (self._complete and len(self._kept) == len(self._values))
        for place, term, last in self._each():
            weight = self._weight(term.count, place)
            total += weight
            # Where nothing of a batch counts, its mean is 0/0.
            if weight:
                if is_new:
                    self._add(place, term, weight)
                    # Kept terms would hold a gradient each, which is summed.
                    self._kept.shrink(place, term.release_gradient())
                yield weight, term, place, last
            # The next one may be made anew, and two would not fit.
            del term
        if total == 0 and not self._is_part:
            raise ValueError(
                f"The data given to {self.objective.name} holds nothing that counts: all weights are zero."
            )
        self.weight = total
        self.divisor = total if self.plan.reduction == "mean" and total else 1.0
        if not self._complete:
            self._value, self._gradient = (self._sums or _Sums(self.variables)).divided(self.divisor)
            self._complete, self._sums, self._joined = True, None, None
            self.plan = self.plan._replace(assumed=False)

    def _add(self, place: Place, term: Term, weight: float) -> None:
        """Value and gradient to the sums of the first pass; a pass after a broken one adds the rest."""
        if self._complete:
            return
        sums = self._sums = self._sums or _Sums(self.variables)
        if place in sums.places:
            return
        try:
            sums.add(term, weight)
            sums.places.add(place)
        except BaseException:
            # Half a gradient is added, and others are released.
            self._sums = None
            self._kept.clear()
            raise

    def _weight(self, count: float | None, place: Place) -> float:
        if self.plan.reduction == "sum":
            return 1.0
        if count is None and not self.plan.several and place == (0, 0):
            return 1.0
        if count is None and self.plan.rowless is not None:
            raise ValueError(
                f"A batch given to {self.objective.name} has type {self.plan.rowless}, of which it cannot be told how"
                " many terms its loss is the mean of. Give weight=, a function of a batch that counts them."
            )
        if count is None:
            raise ValueError(
                f"Some rows of the data given to {self.objective.name} have more labels masked than others, or more"
                " labels at all, so it cannot be told what the loss of a batch is a mean over. Give weight=, a function"
                " of a batch that counts it."
            )
        return count

    def _each(self) -> Iterator[tuple[Place, Term, bool]]:
        """Every term in turn, kept or made anew; of one made anew only whoever is given it holds a reference."""
        if self._complete and len(self._kept) == len(self._values):
            for place in self._values:
                kept = self._kept.get(place)
                assert kept is not None
                yield place, kept, False
            return
        name = self.objective.name
        length = self.batches.length()
        bar = Bar(f"{name}: batches", length, last=False) if self.options.progress else contextlib.nullcontext()
        # A second thread waits: a pass sets the random generators, and notes what it finds.
        with self._passes, bar:
            for number, batch in enumerate(self.batches):
                for start, microbatch in rows.microbatches(batch, self.plan.rows):
                    place = number, start
                    # The loader may have filled the same tensors with other batches meanwhile.
                    self._kept.forget_stale(place)
                    kept = self._kept.get(place)
                    if kept is not None:
                        yield place, kept, False
                        continue
                    made = [self._fresh(place, microbatch)]
                    yield place, made.pop(), self._kept.get(place) is None
                if isinstance(bar, Bar):
                    bar.update(number + 1, "")

    def _fresh(self, place: Place, microbatch: Any) -> Term:
        """The term of a microbatch, kept if there is room."""
        layout = tuple([(tensor.shape, tensor.dtype) for tensor in rows.tensors(microbatch)])
        if layout not in self._sizes and self.engine == "compiled":
            # The first one that a program makes is compared with the tape, whose graph is there meanwhile.
            self._kept.make_room(self.plan.largest)
        term = self._linearized(place, microbatch, self.plan.reduction, self._linearize)
        if place not in self._values:
            self._require_reduction(place, microbatch, term)
        self._compare(place, float(term.value))
        tensors = list(rows.tensors(microbatch))
        if layout not in self._sizes:
            # A batch that is not held elsewhere stays with its term.
            held = {id(tensor) for tensor in self.batches.held_elsewhere(microbatch)}
            own = [tensor.numel() * tensor.element_size() for tensor in tensors if id(tensor) not in held]
            self._sizes[layout] = term.kept_bytes(tensors) + sum(own)
        size = self._sizes[layout]
        self._kept.see(size)
        self._kept.offer(place, term, size, Remembered([(str(i), tensor) for i, tensor in enumerate(tensors)]))
        return term

    def _require_reduction(self, place: Place, microbatch: Any, term: Term) -> None:
        """Raise where a batch's loss is not the mean or sum that the first batch's is; looked at once."""
        if self.plan.assumed:
            self._joined = self._joined or Joined(self.objective, self.plan, microbatch, self.seed)
            self._joined.require(place[0], microbatch, float(term.value), term.count)

    def _linearized(self, place: Place, microbatch: Any, reduction: Reduction, linearize: Linearize) -> Term:
        generators = Seeded(self._seed_of(place))
        with generators.net, generators:
            term = self._make(self.objective, linearize, microbatch, reduction, place)
        if generators.drew:
            self._drew = True
            if self.options.randomness == "refuse":
                raise RuntimeError(
                    f"The loss given to {self.objective.name} draws random numbers, as dropout does, which"
                    ' randomness="refuse" does not allow. Call model.eval(), or give randomness="fixed" for one draw a'
                    " batch."
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

    def _measure(self, microbatch: Any, reduction: Reduction) -> int:
        # By the tape, so that no program is made of a part of a batch.
        def linearize(kind: str, map: Map, point: Leaves, batch: Any) -> Linearization:
            return tape.linearize(map, point, name=self.objective.name)

        return self._linearized((0, 0), microbatch, reduction, linearize).kept_bytes(
            self.batches.held_elsewhere(microbatch)
        )

    def relinearize(self) -> None:
        """Let go of what is kept, so that the next pass makes it by the engine that is named now."""
        self._kept.clear()
        self._sizes.clear()
        # Programs are compared with the tape, which needs room for what it keeps.
        self.plan = self.plan._replace(largest=max(self.plan.largest, self._kept.largest))
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._shared = shared = Shared(self.objective.reads, self.engines.engine)
        self._linearize: Linearize = functools.partial(self.engines.linearize, name=self.objective.name, shared=shared)

    @property
    def engine(self) -> EngineName:
        """That which was decided for when terms began to be made."""
        return "tape" if self.engines.refusal else self._shared.engine

    def kept_terms(self) -> list[Term]:
        """Those that stay linearized."""
        return self._kept.terms()

    def left(self, needed: int | None = None) -> int:
        """What the kept terms and one more leave of the budget."""
        return self._kept.left()

    def left_with_results(self) -> None:
        """The budget is that of batches."""
        return

    def explain(self, explanation: Explanation) -> Explanation:
        """How batches are put together, cut up and kept."""
        return dataclasses.replace(
            explanation,
            reduction=self.plan.reduction,
            microbatches=len(self._values) if self._complete else 0,
            kept=len(self._kept),
            bytes_kept=self._kept.bytes,
            budget=self._kept.budget,
            rows=self.plan.rows,
            rows_reason=self.plan.reason,
        )

    def close(self) -> None:
        """Free the kept terms."""
        super().close()
        self._kept.clear()


def drawn_seed() -> int:
    """A seed from a copy of the user's generator, which is advanced only if the loss draws, too."""
    generators = GeneratorState()
    with generators.net, generators:
        return int(torch.randint(2**61, (), device="cpu"))


class _Sums:
    """Value and gradient, added up over terms."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._value, self._gradient = 0.0, space.zeros()
        self.places: set[Place] = set()

    def add(self, term: Term, weight: float) -> None:
        self._value += weight * float(term.value)
        for leaf, part in zip(self._gradient, term.gradient, strict=True):
            leaf.add_(part, alpha=weight)

    def divided(self, divisor: float) -> tuple[Tensor, Tensor]:
        space = self._space
        value = torch.tensor(self._value / divisor, dtype=space.dtype, device=space.device)
        return value, space.join(self._gradient).div_(divisor)
