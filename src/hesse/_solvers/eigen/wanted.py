"""Which eigenvalues are asked for, and which of the values known so far they are."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hesse._solvers.eigen.claim import Claim

Which = Literal["LM", "LA", "SA", "BE"]
"""Largest in magnitude, largest, smallest, both ends: SciPy's names."""

_KEYS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda values: values,
    "smallest": lambda values: -values,
    "magnitude": lambda values: values.abs(),
}
# To which sides of the spectrum better values would lie.
_SIDES = {"largest": (1,), "smallest": (-1,), "magnitude": (1, -1)}


@dataclasses.dataclass(frozen=True)
class End:
    """The best ``count`` values by a key: larger keys are wanted more."""

    key: str
    count: int

    def order(self, values: Tensor) -> Tensor:
        """Indices of the values, the most wanted first."""
        return _KEYS[self.key](values).argsort(descending=True, stable=True)

    def claims(self, values: Tensor, slack: float) -> list[Claim]:
        """That nothing is missing if the first ``count`` of these are the answer, but for ``slack``."""
        chosen = values[self.order(values)[: self.count]]
        threshold = float(_KEYS[self.key](chosen).min()) + slack
        return [Claim(side, threshold, int((side * chosen > threshold).sum())) for side in _SIDES[self.key]]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The ends of the spectrum that are asked for, and whether the answer goes by value whatever they are."""

    ends: tuple[End, ...]
    ascending: bool

    @staticmethod
    def parse(k: Any, which: str, n: int) -> Wanted:
        """From the arguments of ``eigsh``, for an operator of size n, or one sentence."""
        if which == "SM":
            raise ValueError(
                "which='SM', the smallest in magnitude, needs products with the inverse, and eigsh has none. Ask for"
                " 'SA', which is the same where no eigenvalue is negative, or for both ends with 'BE'."
            )
        if which not in get_args(Which):
            raise ValueError(f"which given to eigsh should be 'LA', 'SA', 'LM' or 'BE' but is {which!r}.")
        parts = k if isinstance(k, tuple) and len(k) == 2 and which == "BE" else (k,)
        if not all(isinstance(part, numbers.Integral) for part in parts):
            raise ValueError(f"k given to eigsh should be an int, or for which='BE' a pair of ints, but is {k!r}.")
        count = int(sum(parts))
        if min(parts) < 0 or not 1 <= count <= n:
            raise ValueError(f"k given to eigsh should be from 1 to {n}, the operator's size, but is {k}.")
        if which == "BE":
            smallest = int(parts[0]) if len(parts) == 2 else count // 2
            ends = [End("smallest", smallest), End("largest", count - smallest)]
        else:
            ends = [End({"LA": "largest", "SA": "smallest", "LM": "magnitude"}[which], count)]
        return Wanted(tuple(end for end in ends if end.count), ascending=which == "BE")

    @property
    def count(self) -> int:
        """How many values are asked for."""
        return sum(end.count for end in self.ends)

    def choose(self, values: Tensor) -> list[Tensor]:
        """For each end the indices of its values, the most wanted first; no index twice, even where values are few."""
        taken = torch.zeros(len(values), dtype=torch.bool, device="cpu")
        chosen = []
        for end in self.ends:
            order = end.order(values)
            chosen.append(order[~taken[order]][: end.count])
            taken[chosen[-1]] = True
        return chosen

    def best(self, values: Tensor, count: int) -> Tensor:
        """Indices of the ``count`` values worth keeping, shared between the ends as the wanted ones are."""
        orders = [end.order(values).tolist() for end in self.ends]
        kept: dict[int, None] = {}
        taken = [0] * len(self.ends)
        while len(kept) < min(count, len(values)):
            # The end that has had the smallest part of its share so far.
            turn = min(range(len(self.ends)), key=lambda i: taken[i] / self.ends[i].count)
            kept[orders[turn][taken[turn]]] = None
            taken[turn] += 1
        return torch.tensor(list(kept), device="cpu")
