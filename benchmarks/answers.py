"""The answers every contestant's are compared with, and how close they must come."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import vhp

from benchmarks.contestants.base import Prepared
from benchmarks.workloads.base import Workload

# They leave room for another order of summation, not for another function.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}

# A leaf whose part of the product is smaller than this share of the whole is judged as if it had this
# share, because what rounding does to the whole also falls on it.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Reference:
    """The products with all vectors in float64, shape (k, n), and the dtype of those who must match it."""

    rows: Tensor
    sizes: tuple[int, ...]
    dtype: torch.dtype

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.dtype]

    def error(self, prepared: Prepared, column: str, answer: object) -> float:
        """The relative error of the worst leaf of an answer; infinite where the shape is wrong.

        Leaf by leaf, because in a whole network's product a wrong layer of normalization vanishes.
        """
        rows = prepared.flat_many(answer) if column == "many" else prepared.flat(answer)[None]
        expected = self.rows if column == "many" else self.rows[:1]
        if rows.shape != expected.shape:
            return float("inf")
        floor = LEAST_SHARE * expected.norm(dim=1)
        worst = torch.zeros(())
        off = (rows.double() - expected).split(self.sizes, dim=1)
        for leaf, right in zip(off, expected.split(self.sizes, dim=1), strict=True):
            errors = leaf.norm(dim=1) / torch.maximum(right.norm(dim=1), floor)
            worst = torch.maximum(worst, errors.max())
        # A product that is not a number must not pass for a small one: NaN compares as false.
        return float("inf") if worst.isnan() else worst.item()


def reference(workload: Workload, dtype: torch.dtype) -> Reference:
    """Products by torch's own double backward of the workload drawn in float64."""
    products = [vhp(workload.on_leaves, workload.leaves, workload.split(row))[1] for row in workload.rows]
    rows = torch.stack([torch.cat([leaf.flatten() for leaf in product]) for product in products])
    return Reference(rows, tuple(leaf.numel() for leaf in workload.leaves), dtype)
