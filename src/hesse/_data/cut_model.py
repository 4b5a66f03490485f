"""``CutModel``: a model of whose parameters each rank holds pieces, which are the variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hesse._base.several_ranks import is_dtensor
from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._data.private_model import Model
from hesse._data.sharded_space import ShardedSpace, is_cut
from hesse._ranks.marks import mark
from hesse._ranks.pieces import Groups, Piece, Share

_CPU = torch.device("cpu")


class CutModel(Model):
    """A model with this rank's pieces of its chosen parameters as variables.

    A parameter that every rank has whole is cut among ranks as well, so that each entry of a vector is held once.

    Args:
        model, chosen, functions, name: as of :class:`Model`.
        groups: the ranks.

    Attributes:
        leaves: this rank's pieces of the chosen parameters, which share their memory.
        groups: the ranks.
        shares: whether vectors that go through a graph together share what it gathers; otherwise they go one by one.
        weight: what a loss counts that is the mean of so many terms; None where no gradient is taken.
        share: what the last evaluation counts; each evaluation has its own.
        keeps: whether graphs of units are kept, and not made again in each product.
        apart: names of modules that cannot be units.
        marks: of derivatives that should be the same on several ranks.
        teams: the ranks that evaluate one batch together, in each; None where every rank has its own.
    """

    keeps = True
    shares = False
    repeats = False  # of ranks that evaluate in step, one alone may see other outputs
    teams: list[list[int]] | None = None
    weight: Callable[[float | None], float] | None = None

    def __init__(
        self, model: nn.Module, chosen: dict[str, nn.Parameter], functions: Sequence[Any], name: str, groups: Groups
    ) -> None:
        super().__init__(model, chosen, functions, name)
        self.groups = groups
        self.share = Share()
        self.marks = Marks()
        self.apart: set[str] = set()
        self._pieces = [self._piece(parameter) for parameter in chosen.values()]
        self.leaves = [self._here(entry, piece) for entry, piece in zip(chosen.values(), self._pieces, strict=True)]

    def _piece(self, parameter: Tensor) -> Piece:
        size, rank = self.groups.pieces.size(), self.groups.pieces.rank()
        dim = parameter.placements[-1].dim if is_cut(parameter) else None  # type: ignore[attr-defined]  # a DTensor
        return Piece(parameter.shape, dim, size, rank)

    def _here(self, parameter: Tensor, piece: Piece) -> Tensor:
        """This rank's piece, as it lies in the parameter's memory."""
        here = parameter.detach()
        return piece.held(here.to_local() if is_dtensor(here) else here)  # type: ignore[attr-defined]  # a DTensor

    def space(self, spec: Spec, name: str) -> Space:
        """The vectors of the chosen parameters, cut up as these are."""
        return ShardedSpace(list(self.chosen.values()), self.leaves, self._pieces, self.groups, spec, name)

    @property
    def num_units(self) -> int:
        """How many parts are called one after another; one, where there is no unit."""
        return 1

    def whole_bytes(self) -> int:
        """What is whole at a time takes."""
        return sum([parameter.numel() * parameter.element_size() for parameter in self.chosen.values()])

    def weigh(self, count: Callable[[], float | None]) -> None:
        """What the last evaluation counts in the sum over ranks."""
        if self.weight is not None:
            self.share.weight = self.weight(count())


class Marks:
    """Of derivatives that should be the same on all ranks of a team, while they are looked at.

    Attributes:
        found: by the name of the parameter; None while nobody looks.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, Tensor]] | None = None

    def note(self, names: Sequence[str], derivatives: Sequence[Tensor]) -> None:
        """Add those of some parameters."""
        if self.found is not None:
            self.found += [(key, mark([entry], _CPU)) for key, entry in zip(names, derivatives, strict=True)]
