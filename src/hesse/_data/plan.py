"""How the batches will be put together, and cut up where they are too large: decided on the first one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from hesse._autograd.evaluation import track
from hesse._autograd.reading import Reading
from hesse._autograd.thread_state import ordinary_autograd
from hesse._base.errors import MemoryBudgetError, first_line
from hesse._base.interrupts import is_unrelated
from hesse._base.memory import readable
from hesse._data import rows
from hesse._data.kept import needed
from hesse._data.losses import Reduction
from hesse._data.models import Objective
from hesse._data.options import DataOptions
from hesse._data.reduction import PILOT as PILOT
from hesse._data.reduction import Finding, examine, settle
from hesse._linearize.program.surroundings import Sorted

Measure = Callable[[Any, Reduction], int]
"""Bytes kept of a batch."""


class Premise:
    """What a plan depends on beside the data: layers that normalize batches, and plain values that the loss reads.

    It is made before the plan. What the plan's own evaluations change, as a list of losses, says nothing.

    Args:
        objective: that of the point.
    """

    def __init__(self, objective: Objective) -> None:
        self._layer = objective.batch_statistics()
        self._reading = Reading(objective.functions())
        self._found = self._reading.now()
        self._values = frozenset(Sorted(self._found).fixed)

    def settled(self, *, is_reduced: bool) -> Premise:
        """Once the plan is made; it may not depend on the reduction of the loss."""
        self._found = self._reading.now()
        self._values = self._values & frozenset(Sorted(self._found).fixed) if is_reduced else frozenset()
        return self

    def holds(self, objective: Objective) -> bool:
        """Whether all is as it was; a loss may read more."""
        if objective.batch_statistics() != self._layer:
            return False
        found = self._reading.now() if self._values else self._found
        return found is self._found or self._values <= frozenset(Sorted(found).fixed)


class Plan(NamedTuple):
    """What was decided.

    Attributes:
        reduction: whether a batch's loss is the mean or the sum of its rows' losses.
        several: whether there is more than one batch, or microbatch.
        rows: at most how many rows of a batch are linearized at once; None for whole batches.
        reason: why.
        largest: bytes that the tape keeps of the first microbatch, for the comparison of programs; 0 without programs.
        rowless: of what type the first batch is, where it has no rows that can be counted.
        number: rows of the first batch; 0 where they cannot be counted.
        assumed: whether only the first batch says so of the reduction, so that the first pass looks at the others.
        shown: whether parts of the first batch have shown it.
        premise: what it holds for; any model and loss when left out.
    """

    reduction: Reduction
    several: bool
    rows: int | None
    reason: str
    largest: int = 0
    rowless: str | None = None
    number: int = 0
    assumed: bool = False
    shown: bool = True
    premise: Premise | None = None


def make_plan(
    objective: Objective,
    first: Any,
    several: bool,
    settings: DataOptions,
    measure: Measure,
    budget: int,
    seed: int,
) -> Plan:
    """Look at the first of the batches: at its halves, for the reduction, and at a row of it, for the memory.

    Raises:
        ValueError: batches' losses cannot be put together.
        MemoryBudgetError: a row of a batch does not fit into the memory.
    """
    layer = normalizing_layer(objective, settings, several=several)
    wanted, stated = settings.reduction, objective.stated_reduction()
    finding: Finding | None = None
    told = wanted is not None and settings.weighted
    if told or not (several or settings.needs_reduction):
        reduction: Reduction = wanted or "mean"
    elif layer is not None:
        reduction = _beside_statistics(objective, layer, wanted or stated or ("mean" if settings.weighted else None))
    else:
        finding = _examined(objective, first, seed, known=(wanted or stated) is not None)
        # Who counts the terms of a mean says that it is one.
        said = stated or ("mean" if settings.weighted and finding.drew else None)
        reduction = settle(finding, wanted, said, objective.name)

    # A sum that the user asks for has no weights that could be wrong.
    assumed = wanted != "sum" and finding is not None and several and not finding.drew and not settings.weighted
    plan = Plan(
        reduction,
        several,
        None,
        "a whole batch fits into the memory",
        assumed=assumed and objective.known is None,
        shown=finding is None or finding.halved or objective.is_models_own,
    )
    number = rows.count(first) or 1
    if number > PILOT and layer is None:
        try:
            kept = measure(rows.part(first, 0, PILOT), reduction)
        except Exception as error:
            if is_unrelated(error):
                raise
            # Graphs and fixed batch sizes; what is wrong with the model itself shows on the whole batch.
            whole = needed(measure(first, reduction))
            if whole > budget:
                _warn_uncut(number, whole, budget, f"a part of it cannot be evaluated ({first_line(error)})")
            return plan._replace(reason="two rows of it alone cannot be evaluated")
        estimate = needed(kept * number // PILOT)
        if estimate > budget:
            finding = finding or _examined(objective, first, seed, known=True)
            if reduction not in finding.fits and not (finding.drew and (wanted or stated)):
                if several or settings.needs_reduction or not finding.fits:
                    _warn_uncut(number, estimate, budget, f"its loss is not known to be a {reduction} over rows")
                    return plan._replace(reason="the loss is no sum over rows")
                (reduction,) = finding.fits
            limit = _rows(first, number, reduction, measure, budget, objective.name)
            if limit < number:
                reason = f"a whole batch would take about {readable(estimate)} of {readable(budget)}"
                plan = plan._replace(several=True, rows=limit, reason=reason)
            plan = plan._replace(reduction=reduction)
    return plan


def normalizing_layer(objective: Objective, settings: DataOptions, *, several: bool) -> str | None:
    """A layer that normalizes by the statistics of each batch, which several batches must be allowed to have."""
    layer = objective.batch_statistics()
    if layer is not None and several and settings.batch_norm == "refuse":
        raise ValueError(
            f"The layer {layer} normalizes by the statistics of each batch, so the loss over several batches is no sum"
            f" over samples and has no {objective.name} that does not depend on how they are cut. Call model.eval(),"
            ' give one batch in all, or batch_norm="per batch" for the sum of the batches\' own losses.'
        )
    return layer


def _beside_statistics(objective: Objective, layer: str, said: str | None) -> Reduction:
    """The reduction where a layer normalizes by the statistics of the batch, so that parts of it say nothing."""
    if said is None:
        raise ValueError(
            f"The layer {layer} normalizes by the statistics of each batch, so the rows do not show whether the loss"
            f" given to {objective.name} is the mean or the sum of their losses. Give reduction='mean' or"
            " reduction='sum'."
        )
    return "sum" if said == "sum" else "mean"


def _warn_uncut(number: int, size: int, budget: int, why: str) -> None:
    warnings.warn(
        f"A batch of {number} rows takes about {readable(size)} and memory= allows {readable(budget)}, but {why}, so it"
        " is not cut up. Give smaller batches.",
        stacklevel=3,
    )


def _examined(objective: Objective, first: Any, seed: int, *, known: bool) -> Finding:
    """What halves of the batch say; nothing where they cannot be evaluated and the reduction is known otherwise."""
    try:
        return examine(objective, first, seed)
    except Exception as error:
        if is_unrelated(error):
            raise
        # Where the whole batch fails as well, that is what the user should see.
        with ordinary_autograd():
            _, counted = objective.value([track(leaf, False) for leaf in objective.leaves], first)
            objective.count(first, counted)
        if known:
            return Finding(frozenset(), "", drew=False, halved=False)
        raise ValueError(
            f"The loss given to {objective.name} cannot be evaluated on a part of its first batch"
            f" ({first_line(error)}), so it cannot be told whether it is a mean or a sum over rows. Give reduction= and"
            " weight= to say how batches are put together."
        ) from error


def _rows(first: Any, number: int, reduction: Reduction, measure: Measure, budget: int, name: str) -> int:
    """How many rows fit, from what one and two take: a part of it does not grow with the rows."""
    one, two = [measure(rows.part(first, 0, count), reduction) for count in (1, 2)]
    each = max(1, two - one)
    fixed = max(0, one - each)
    if needed(one) > budget:
        raise MemoryBudgetError(
            f"The memory given to {name}, {readable(budget)}, is too small for one row of the first batch, which takes"
            f" about {readable(needed(one))}. Give more memory, or choose fewer parameters."
        )
    most = 1
    while most < number and needed(fixed + 2 * most * each) <= budget:
        most *= 2
    return most
