"""Whether a batch's loss is the mean or the sum of the losses of its rows: found out on two parts of a batch.

Batches are averaged by how many terms their means are over, so a loss that is something else would give a wrong
matrix without a word.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from hesse._autograd.agreement import coarsest
from hesse._autograd.evaluation import track
from hesse._autograd.thread_state import interruptible, ordinary_autograd
from hesse._base.interrupts import is_unrelated
from hesse._data import rows
from hesse._data.draws import Seeded
from hesse._data.losses import Reduction
from hesse._data.models import Objective

_ROUNDING = {16: 0.02, 32: 1e-4, 64: 2e-6}
"""How far losses that should agree may differ, by the bits of the coarsest number that has a part in them: models round
losses to float32 that are float64 elsewhere (1.6e-7 of them was measured), and add them up in another order."""


PILOT = 2
"""How many rows are tried first; not one, since programs that squeeze dimensions of length one are common."""


class Finding(NamedTuple):
    """What two halves of a batch say of its loss.

    Attributes:
        fits: the reductions that the losses agree with.
        said: the three losses, for an error.
        drew: whether random numbers were drawn, so that halves say nothing.
        halved: whether there were two halves to compare.
    """

    fits: frozenset[Reduction]
    said: str
    drew: bool
    halved: bool


@interruptible
def examine(objective: Objective, batch: Any, seed: int) -> Finding:
    """Evaluate the loss on a batch and on its two parts."""
    number = rows.count(batch)
    if number is None or number < 2:
        return Finding(frozenset(), "", drew=False, halved=False)
    half = _cut(number)
    generators = Seeded(seed)
    with generators.net, generators, ordinary_autograd():
        # What a model keeps of its parameters now leads to other variables than those of the next evaluation, which
        # finds out. Few rows, since a graph is made.
        objective.value([track(leaf, False) for leaf in objective.leaves], rows.part(batch, 0, min(number, PILOT)))
        whole, first, second = [
            loss_without_graph(objective, rows.part(batch, *ends)) for ends in ((0, number), (0, half), (half, number))
        ]
    said = (
        f"rows 0 to {half} of the first batch give {first[0]:.6g}, the others {second[0]:.6g}, and all"
        f" {number} together {whole[0]:.6g}"
    )
    if generators.drew:
        return Finding(frozenset(), said, drew=True, halved=True)
    if not math.isfinite(whole[0]):
        return Finding(frozenset(), said, drew=False, halved=False)
    allowed = rounding(objective)
    fits: set[Reduction] = set()
    if agree(whole[0], [first[0], second[0]], allowed):
        fits.add("sum")
    counts = [part[1] for part in (whole, first, second)]
    if None not in counts:
        total, *parts = [float(count or 0) for count in counts]
        weighted = [value * count for (value, _), count in zip((first, second), parts, strict=True) if count]
        if abs(total - sum(parts)) <= allowed * abs(total) and agree(whole[0] * total, weighted, allowed):
            fits.add("mean")
    return Finding(frozenset(fits), said, drew=False, halved=True)


def _cut(number: int) -> int:
    """Where to cut a batch: near its middle, but so that a mask of some of its rows never masks both parts alike.

    Parts of k and n − k rows have equal shares of m rows only where n divides k·m, which k without a factor of n rules
    out. One row alone is not tried, see :data:`PILOT`.
    """
    middle = number // 2
    return next((first for first in range(middle, 1, -1) if math.gcd(first, number) == 1), middle)


def loss_without_graph(objective: Objective, batch: Any) -> tuple[float, float | None]:
    """The loss of a batch, and how many terms it counts."""
    try:
        value, counted = objective.value([leaf.detach() for leaf in objective.leaves], batch)
    except RuntimeError as error:
        if is_unrelated(error):
            raise
        # Programs that differentiate by their parameters, as those that train within, need a graph.
        value, counted = objective.value([track(leaf, False) for leaf in objective.leaves], batch)
    return float(value.detach()), objective.count(batch, counted)


def rounding(objective: Objective) -> float:
    """How far, relatively, two evaluations of a loss may differ."""
    half = torch.is_autocast_enabled(objective.leaves[0].device.type)
    numbers = [tensor for tensor in objective.tensors() if tensor.is_floating_point()]
    return _ROUNDING[16 if half else max(16, torch.finfo(coarsest([*objective.leaves, *numbers])).bits)]


def agree(whole: float, parts: list[float], allowed: float) -> bool:
    """Whether a number is the sum of its parts but for rounding."""
    return abs(whole - sum(parts)) <= allowed * max(abs(whole), sum(abs(part) for part in parts))


def settle(finding: Finding, asked: Reduction | None, said: str | None, name: str) -> Reduction:
    """The reduction to use, or one sentence that says why the batches' losses cannot be put together."""
    wanted = asked or said
    if finding.drew and wanted is None:
        raise ValueError(
            f"The loss given to {name} draws random numbers, as dropout does, so its rows do not show whether it is the"
            " mean or the sum of their losses. Give reduction='mean' or reduction='sum'."
        )
    if finding.drew and asked is not None and said is not None and asked != said:
        raise ValueError(
            f"The loss given to {name} says that it is a {said} over rows but reduction={asked!r} was given, and it"
            " draws random numbers, so that its rows do not show which. Leave reduction= out, or give weight= too to"
            " say how batches are put together."
        )
    if not finding.halved or finding.drew:
        return "sum" if wanted == "sum" else "mean"
    if wanted in finding.fits or (wanted is None and len(finding.fits) == 1):
        return "sum" if (wanted or next(iter(finding.fits))) == "sum" else "mean"
    if wanted is None and finding.fits:
        # All losses vanish; both are right here.
        return "mean"
    if finding.fits:
        (found,) = finding.fits
        raise ValueError(
            f"The loss given to {name} counts as a {wanted} over rows but is a {found}: {finding.said}."
            f" Give reduction={found!r}."
        )
    raise ValueError(
        f"The loss given to {name} is neither the mean nor the sum of its rows' losses: {finding.said}. If it is a mean"
        " over something else, such as tokens, give weight=, a function of a batch that counts them; if rows act on"
        " each other, give reduction= and weight= to say how batches are put together."
    )
