"""``DataOptions``: what the four operators over data may be told beside model, loss and data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hesse._data.losses import Reduction
from hesse._linearize.options import Options

Draws = Literal["fixed", "refuse"]
BatchNorm = Literal["refuse", "per batch"]


@dataclasses.dataclass(frozen=True)
class DataOptions(Options):
    """How products over data are made; :class:`hesse.LossHessian` documents each field.

    Attributes:
        weighted: whether the user said how many terms the mean of a batch is over.
        needs_reduction: whether the matrix depends on the reduction even for one batch.
    """

    reduction: Reduction | None = None
    randomness: Draws = "fixed"
    batch_norm: BatchNorm = "refuse"
    progress: bool = False
    weighted: bool = False
    needs_reduction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, allowed in (
            ("reduction", self.reduction, (None, "mean", "sum")),
            ("randomness", self.randomness, ("fixed", "refuse")),
            ("batch_norm", self.batch_norm, ("refuse", "per batch")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} should be one of {', '.join(map(repr, allowed))} but is {value!r}.")
