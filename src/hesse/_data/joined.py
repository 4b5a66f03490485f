"""Whether each batch's loss is the mean or sum over rows that it is taken for: compared with some rows of the first.

A loss that masks rows or tokens by itself counts fewer terms than rows. Two parts of the first batch show it only where
that batch is masked, and then only where the parts differ.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from hesse._autograd.thread_state import ordinary_autograd
from hesse._base.interrupts import is_unrelated
from hesse._data import rows
from hesse._data.draws import Seeded
from hesse._data.models import Objective
from hesse._data.plan import Plan
from hesse._data.reduction import PILOT, agree, loss_without_graph, rounding


class Joined:
    """Joins each batch to the first rows of the first batch, and compares the loss of both with their two losses.

    They agree exactly where the terms of the batch and of these rows are in the proportion of their counts, which is
    what the weights of batches assume.
    """

    def __init__(self, objective: Objective, plan: Plan, first: Any, seed: int) -> None:
        self._objective, self._reduction, self._seed = objective, plan.reduction, seed
        # Where parts of the first batch do not show it, nothing is known of batches of other shapes.
        self._shapes = None if plan.shown or plan.reduction == "sum" else _shapes(first)
        # A copy, since a view would keep the whole batch.
        self._rows = rows.map_batch(Tensor.clone, rows.part(first, 0, PILOT))
        self._found = self._evaluated(self._rows)

    def _evaluated(self, batch: Any) -> tuple[float, float | None] | None:
        """Loss and count of a batch; None where these do not say anything."""
        generators = Seeded(self._seed)
        try:
            with generators.net, generators, ordinary_autograd():
                value, count = loss_without_graph(self._objective, batch)
        except Exception as error:
            if is_unrelated(error):
                raise
            # Programs that take whole batches only.
            return None
        return None if generators.drew else (value, count)

    def require(self, number: int, batch: Any, value: float, count: float | None) -> None:
        """Raise where the loss of batch ``number``, the mean of ``count`` terms, is not what it is taken for."""
        both = None if self._found is None else rows.joined(self._rows, batch)
        whole = None if both is None else self._evaluated(both)
        if whole is None or self._found is None:
            if self._shapes is not None and self._shapes != _shapes(batch):
                raise ValueError(
                    f"It cannot be told how many terms the loss given to {self._objective.name} is the mean of: parts"
                    f" of its first batch do not show it, and batch {number} has other shapes. Give weight=, a function"
                    " of a batch that counts them."
                )
            return
        if not math.isfinite(whole[0]):
            return
        parts, total = [self._found[0], value], 1.0
        if self._reduction == "mean":
            terms = self._found[1]
            if terms is None or count is None:
                # Whoever weighs the batch says so.
                return
            # Where labels are masked in one of both alone, it cannot be told how many count in all.
            total = math.nan if whole[1] is None else whole[1]
            parts = [self._found[0] * terms, value * count]
        if agree(whole[0] * total, parts, rounding(self._objective)):
            return
        raise ValueError(
            f"The loss given to {self._objective.name} is not the {self._reduction} of its rows' losses in batch"
            f" {number}: {rows.count(self._rows)} rows of the first batch give {self._found[0]:.6g}, batch {number}"
            f" gives {value:.6g}, and both together {whole[0]:.6g}. If it leaves out rows or tokens, give weight=, a"
            " function of a batch that counts the others; if rows act on each other, give reduction= and weight= to say"
            " how batches are put together."
        )


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in rows.tensors(batch)]
