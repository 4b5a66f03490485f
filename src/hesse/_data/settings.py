"""How an operator over data goes about it: what the four of them take beside model, loss and data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from hesse._data.losses import Reduction
from hesse._linearize.chunks import Batching, Mode
from hesse._linearize.engines import Name

Draws = Literal["fixed", "refuse"]
BatchNorm = Literal["refuse", "per batch"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may be said of the sum over data.

    Attributes:
        reduction: whether a batch's loss is the "mean" or the "sum" of its rows' losses; None to find out.
        weighted: whether the user said how many terms a batch's mean is over.
        memory: the budget as it was asked for.
        engine: what linearizes batches, by its name.
        expect: how many products will be asked for, at all points; None where nobody knows.
        verify: whether programs are compared with the tape at each new point.
        batching: how many vectors are multiplied.
        random: "fixed" has one draw for each batch, "refuse" raises when the loss draws random numbers.
        batch_norm: "refuse" raises for batch statistics over several batches; "per batch" sums losses with their own.
        progress: whether a bar shows each pass over the data, on a terminal.
        needs_reduction: whether the matrix depends on the reduction even for one batch.
    """

    reduction: Reduction | None = None
    weighted: bool = False
    memory: int | str | None = None
    engine: Name = "auto"
    expect: int | None = None
    verify: bool = True
    batching: Mode = "auto"
    random: Draws = "fixed"
    batch_norm: BatchNorm = "refuse"
    progress: bool = False
    needs_reduction: bool = False

    def __post_init__(self) -> None:
        Batching(self.batching)
        for name, value, allowed in (
            ("reduction", self.reduction, (None, "mean", "sum")),
            ("random", self.random, ("fixed", "refuse")),
            ("batch_norm", self.batch_norm, ("refuse", "per batch")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} should be one of {', '.join(map(repr, allowed))} but is {value!r}.")
