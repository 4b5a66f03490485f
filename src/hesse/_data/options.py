"""``DataOptions``: what the four operators over data may be told beside model, loss and data."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypedDict

import torch.distributed as dist

from hesse._base import checks
from hesse._data.losses import Reduction
from hesse._linearize.choice import Choice
from hesse._linearize.options import Mode, Name, Options, Verify

Draws = Literal["fixed", "refuse"]
BatchNorm = Literal["refuse", "per batch"]


class DataKeywords(TypedDict, total=False):
    """What users may say of them, in each of the four operators; :class:`DataOptions` has the defaults."""

    reduction: Reduction | None
    memory: int | str | None
    engine: Name | Choice
    verify: Verify
    expect: int | None
    batching: Mode
    randomness: Draws
    batch_norm: BatchNorm
    progress: bool
    group: dist.ProcessGroup | None


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
    group: dist.ProcessGroup | None = None
    weighted: bool = False
    needs_reduction: bool = False

    @staticmethod
    def of(operator: str, keywords: DataKeywords, *, weighted: bool, needs_reduction: bool = False) -> DataOptions:
        """From the keywords given to an operator.

        Raises:
            TypeError: there is no such keyword.
        """
        unknown = set(keywords) - set(DataKeywords.__annotations__)
        if unknown:
            known = ", ".join(DataKeywords.__annotations__)
            raise TypeError(f"{operator} has no argument {min(unknown)!r}. Beside its own it takes {known}.")
        return DataOptions(**keywords, weighted=weighted, needs_reduction=needs_reduction)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flags("an operator", progress=self.progress)
        for name, value, allowed in (
            ("reduction", self.reduction, (None, "mean", "sum")),
            ("randomness", self.randomness, ("fixed", "refuse")),
            ("batch_norm", self.batch_norm, ("refuse", "per batch")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} should be one of {', '.join(map(repr, allowed))} but is {value!r}.")
