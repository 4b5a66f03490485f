"""Which eigenvalues are asked for, and which of the values known so far they are."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesse.eigen.ritz import Ritz

_KEYS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda values: values,
    "smallest": lambda values: -values,
    "magnitude": lambda values: values.abs(),
}


@dataclasses.dataclass(frozen=True)
class End:
    """The best ``count`` values by a key: larger keys are wanted more."""

    key: str
    count: int

    def order(self, ritz: Ritz) -> Tensor:
        """Indices of the values, the most wanted first; of equal ones those that are locked."""
        return (_KEYS[self.key](ritz.values) + ritz.locked * ritz.slack).argsort(descending=True)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The ends of the spectrum that are asked for."""

    ends: tuple[End, ...]

    @staticmethod
    def parse(k: Any, which: str, n: int) -> Wanted:
        """From the arguments of ``eigsh``, for an operator of size n, or one sentence."""
        if which not in ("LA", "SA", "LM", "BE"):
            raise ValueError(f"which given to eigsh should be 'LA', 'SA', 'LM' or 'BE' but is {which!r}.")
        parts = k if isinstance(k, tuple) and which == "BE" else (k,)
        if not all(isinstance(part, numbers.Integral) for part in parts) or len(parts) > 2:
            raise ValueError(f"k given to eigsh should be an int, or for which='BE' a pair of ints, but is {k!r}.")
        k = tuple(int(part) for part in parts)
        if len(k) == 1:
            k = (k[0] // 2, k[0] - k[0] // 2)
        if min(k) < 0 or not 1 <= sum(k) <= n:
            raise ValueError(f"k given to eigsh should be from 1 to {n}, the operator's size, but is {sum(k)}.")
        if which == "BE":
            ends = (End("smallest", k[0]), End("largest", k[1]))
        else:
            ends = (End({"LA": "largest", "SA": "smallest", "LM": "magnitude"}[which], sum(k)),)
        return Wanted(tuple(end for end in ends if end.count))

    @property
    def count(self) -> int:
        """How many values are asked for."""
        return sum(end.count for end in self.ends)

    def choose(self, ritz: Ritz) -> Tensor:
        """Indices of the wanted values among those known, as many as there are: the order of the answer."""
        orders = [end.order(ritz) for end in self.ends]
        if len(ritz) <= self.count:
            taken = torch.arange(len(ritz))
        else:
            taken = torch.cat([order[: end.count] for order, end in zip(orders, self.ends, strict=True)])
        if len(self.ends) > 1:
            return taken[ritz.values[taken].argsort()]
        return orders[0][torch.isin(orders[0], taken)]

    def best(self, ritz: Ritz, count: int) -> Tensor:
        """Indices of the ``count`` values worth keeping, shared between the ends as the wanted ones are."""
        orders = [end.order(ritz).tolist() for end in self.ends]
        kept: dict[int, None] = {}
        taken = [0] * len(self.ends)
        while len(kept) < min(count, len(ritz)):
            # The end that has had the smallest part of its share so far.
            turn = min(range(len(self.ends)), key=lambda i: taken[i] / self.ends[i].count)
            kept[orders[turn][taken[turn]]] = None
            taken[turn] += 1
        return torch.tensor(list(kept))

    def rivals(self, ritz: Ritz) -> list[int]:
        """Indices of unwanted values that may become wanted as they converge.

        At an end of the spectrum values are found in order. By magnitude they are not: a value at the other end may
        still grow past those that have converged.
        """
        if self.ends[0].key != "magnitude":
            return []
        chosen = self.choose(ritz)
        least = ritz.values[chosen].abs().min()
        others = [i for i in ritz.values.argsort().tolist() if i not in set(chosen.tolist())]
        return [i for i in {*others[:1], *others[-1:]} if ritz.values[i].abs() + ritz.estimates[i] > least]

    def proved(self, ritz: Ritz, converged: Callable[[int], bool]) -> bool:
        """Whether the run away from the locked values shows that no better ones than those chosen are left.

        Its best value at each end must have converged, and of the wanted ones at most the last may be the run's.
        """
        for end in self.ends:
            order = end.order(ritz)
            of_run = order[~ritz.locked[order]].tolist()
            if not of_run or not converged(of_run[0]) or not bool(ritz.locked[order[: end.count - 1]].all()):
                return False
        return True
