"""``ShardedSpace``: vectors of which each rank holds the entries of its pieces of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hesse._base.several_ranks import is_dtensor
from hesse._base.space import Space
from hesse._base.trees import Spec, dotted_name
from hesse._base.vectors import check_vector
from hesse._ranks.pieces import Bundle, Groups, Piece
from hesse._ranks.shards import Shards


class ShardedSpace(Space):
    """Vectors structured like sharded parameters: flat ones are this rank's entries, structured ones are DTensors.

    Making it is a collective call. Parameters that every rank has whole are whole in structured vectors, too.

    Args:
        parameters: of the model.
        leaves: this rank's piece of each.
        pieces: how each is cut.
        groups: the ranks.
        spec, name: as of :class:`Space`.

    Attributes:
        shards: which entries of a flat vector this rank holds.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        leaves: Sequence[Tensor],
        pieces: Sequence[Piece],
        groups: Groups,
        spec: Spec,
        name: str,
    ) -> None:
        self._parameters, self._pieces, self._groups = list(parameters), list(pieces), groups
        self._structure = spec
        super().__init__(leaves, Spec(self._rebuilt, spec.paths, spec.length), name)
        ranges: list[tuple[int, int]] = []
        offset = 0
        for parameter, piece in zip(parameters, pieces, strict=True):
            ranges += piece.ranges(offset)
            offset += parameter.numel()
        self.whole_size = offset
        self.shards = Shards(groups.ranks, offset, ranges)

    def part(self, positions: Sequence[int], spec: Spec, name: str) -> Space:
        """The space of some of its leaves."""
        chosen = [(self._parameters[i], self.leaves[i], self._pieces[i]) for i in positions]
        parameters, leaves, pieces = zip(*chosen, strict=True)
        return type(self)(parameters, leaves, pieces, self._groups, spec, name)

    def holds(self, v: Tensor) -> bool:
        """A tensor that is no DTensor is flat here."""
        return is_dtensor(v) and super().holds(v)

    def check(self, v: Any) -> list[Tensor]:
        """This rank's entries of a structured vector, or one sentence that names what does not fit."""
        entries = check_vector(self.name, v, self._parameters, self.spec)
        return [
            self._here(*found) for found in zip(entries, self._parameters, self._pieces, self.spec.paths, strict=True)
        ]

    def _here(self, entry: Any, parameter: Any, piece: Piece, path: Any) -> Tensor:
        if is_dtensor(entry) and (
            entry.device_mesh != parameter.device_mesh or entry.placements != parameter.placements
        ):
            raise ValueError(
                f"Entry {dotted_name(path)} of the vector given to {self.name} should be placed as"
                f" {parameter.placements} like the parameter but is placed as {entry.placements}. Call redistribute."
            )
        return piece.held(entry.to_local() if is_dtensor(entry) else entry)

    def _rebuilt(self, leaves: Sequence[Tensor]) -> Any:
        found: list[Tensor] = []
        for leaf, parameter, piece in zip(leaves, self._parameters, self._pieces, strict=True):
            cut = piece.slice()
            # A collective call.
            entry = leaf if cut is None else Bundle(self._groups, [cut], "an entry of a vector").gather([leaf])[0]
            if is_dtensor(parameter):
                entry = as_dtensor(entry, parameter, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]  # a DTensor
            found.append(entry)
        return self._structure.rebuild(found)


def is_cut(parameter: Any) -> bool:
    """Whether each rank has a part of a parameter, and not the whole."""
    return is_dtensor(parameter) and parameter.placements[-1].is_shard()


def as_dtensor(local: Tensor, parameter: Tensor, mesh: Any, placements: Any) -> Tensor:
    """A DTensor of a parameter's shape, of what this rank has of it."""
    from torch.distributed.tensor import DTensor  # loaded by whoever made the parameters

    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=stride)
