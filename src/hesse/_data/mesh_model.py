"""A tensor parallel model that ``fully_shard`` cut up over another dimension of the mesh."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from hesse._base.several_ranks import is_dtensor, is_fsdp, is_sharded, refuse_model
from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._data.sharded_model import ShardedModel, require_plain
from hesse._data.sharded_space import ShardedSpace, as_dtensor
from hesse._data.unit_calls import UnitPlan
from hesse._ranks.group import Ranks
from hesse._ranks.pieces import Groups, Piece, Share, gathered
from hesse._ranks.together import Together

_FSDP_KINDS, _PARALLEL_KINDS = {"Shard", "_StridedShard"}, {"Shard", "Replicate"}


def mesh_of(model: nn.Module) -> Any:
    """The mesh of a model that is sharded in one dimension and tensor parallel in the other; None of any other."""
    if not is_sharded(model):
        return None
    for parameter in model.parameters():
        if is_dtensor(parameter):
            kinds = [type(placement).__name__ for placement in parameter.placements]  # type: ignore[attr-defined]  # a DTensor
            if len(kinds) == 2 and kinds[0] in _FSDP_KINDS:
                return parameter.device_mesh  # type: ignore[attr-defined]  # a DTensor
    return None


def mesh_group_of(model: nn.Module, name: str) -> dist.ProcessGroup:
    """The group of all ranks of such a model, or one sentence that says why it cannot be evaluated."""
    refuse_model(model, name, cut=True)
    mesh = mesh_of(model)
    for key, parameter in model.named_parameters():
        if not (is_dtensor(parameter) and _is_supported(parameter, mesh)):
            placed = getattr(parameter, "placements", "whole")
            raise NotImplementedError(
                f"{name} takes a model whose parameters fully_shard cut over the first of two dimensions of a mesh, and"
                f" tensor parallel over the other, but {key!r} is placed as {placed}. Call parallelize_module with the"
                " second dimension of the mesh, and fully_shard with the first, without ignored_params."
            )
    for key, module in model.named_modules():
        if is_fsdp(module):
            require_plain(key, module, name)
    group = dist.group.WORLD
    assert group is not None
    if mesh.mesh.flatten().tolist() != list(range(group.size())):
        raise NotImplementedError(
            f"{name} takes a model that is sharded and parallel over all {group.size()} ranks, but got one on {mesh}."
        )
    return group


def _is_supported(parameter: Any, mesh: Any) -> bool:
    kinds = [type(placement).__name__ for placement in parameter.placements]
    own = parameter.device_mesh
    if parameter.dtype.is_complex or parameter.device.type != mesh.device_type or kinds[0] not in _FSDP_KINDS:
        return False
    if len(kinds) == 1:
        return bool(own.mesh.tolist() == mesh.mesh[:, mesh.get_local_rank(1)].tolist())
    return bool(own == mesh) and kinds[1] in _PARALLEL_KINDS


class MeshPiece(Piece):
    """What a rank holds of a parameter: of its tensor parallel part a piece of FSDP, and of a copy of that a slice.

    Args:
        parameter: a DTensor.
        mesh: of the model.
    """

    def __init__(self, parameter: Any, mesh: Any) -> None:
        fsdp, *parallel = parameter.placements
        shape = parameter.shape
        part = [(0, size) for size in shape]
        if parallel and parallel[0].is_shard():
            dim = parallel[0].dim
            step = -(-shape[dim] // mesh.size(1))
            first = min(step * mesh.get_local_rank(1), shape[dim])
            part[dim] = first, min(step, shape[dim] - first)
        super().__init__([count for _, count in part], fsdp.dim, mesh.size(0), mesh.get_local_rank(0))
        first = part[fsdp.dim][0] + self._starts[self._rank]
        part[fsdp.dim] = first, self.here[fsdp.dim]
        self._box, self._of = part, tuple(shape)
        copied = not (parallel and parallel[0].is_shard())
        self._slice = Piece(self.here, None, mesh.size(1), mesh.get_local_rank(1)) if copied else None

    def ranges(self, offset: int) -> Iterator[tuple[int, int]]:
        """As of a piece."""
        cut = [dim for dim, (_, count) in enumerate(self._box) if count != self._of[dim]]
        last = cut[-1] if cut else 0
        inner = math.prod(self._of[last + 1 :])
        first, count = self._box[last]
        skip, left = 0, math.prod(self.here)
        if self._slice is not None:
            ((skip, left),) = self._slice.ranges(0)
        for index in itertools.product(*[range(start, start + size) for start, size in self._box[:last]]):
            place = functools.reduce(
                lambda total, step: total * step[1] + step[0], zip(index, self._of, strict=False), 0
            )
            begin, length = (place * self._of[last] + first) * inner, count * inner
            taken = max(0, min(length - skip, left))
            if taken:
                yield offset + begin + skip, taken
            left -= taken
            skip = max(0, skip - length)

    def slice(self) -> Piece | None:
        """As of a piece."""
        return self._slice


class MeshModel(ShardedModel):
    """A sharded model that is tensor parallel: each evaluation gathers this rank's parts of all parameters.

    Args:
        model, chosen, functions, name, ranks: as of :class:`ShardedModel`.
    """

    shares = False

    def _groups_of(self, model: nn.Module, ranks: Ranks) -> Groups:
        self._mesh = mesh_of(model)
        self.teams = self._mesh.mesh.tolist()
        self._parallel = Groups(ranks, self._mesh.get_group(1), None)
        return Groups(ranks, self._mesh.get_group(0), None)

    def _piece(self, parameter: Tensor) -> Piece:
        return MeshPiece(parameter, self._mesh)

    def _plans(self) -> list[UnitPlan]:
        """No units: graphs of DTensors keep whole parameters."""
        return []

    def _cut_up(self) -> None:
        super()._cut_up()
        groups: dict[Any, list[int]] = {}
        for position, piece in enumerate(self._pieces):
            if piece.slice() is not None and self._variables[position] is not None:
                groups.setdefault(self.leaves[position].dtype, []).append(position)
        names = list(self.chosen)
        self._copies = []
        for positions in groups.values():
            note = functools.partial(self.marks.note, [names[i] for i in positions])
            slices = [cut for i in positions if (cut := self._pieces[i].slice()) is not None]
            self._copies.append((Together(self._parallel, slices, note, stay=False), positions))

    def _sharded(self, x: Sequence[Tensor]) -> Sequence[Tensor]:
        found, share = list(x), Share()
        # Of what FSDP sums, which has weights already.
        share.weight = 1.0
        for bundle, positions in self._copies:
            pieces = gathered(bundle, share, [x[i] for i in positions])
            for position, piece in zip(positions, pieces, strict=True):
                found[position] = piece
        return found

    def _whole(self, whole: Tensor, parameter: Any) -> Tensor:
        if parameter.device_mesh.ndim == 1:
            return whole
        mesh = parameter.device_mesh
        return as_dtensor(whole, parameter, mesh[mesh.mesh_dim_names[1]], parameter.placements[1:])

    def space(self, spec: Spec, name: str) -> Space:
        """As of a sharded model; slices are of tensor parallel ranks."""
        return ShardedSpace(list(self.chosen.values()), self.leaves, self._pieces, self._parallel, spec, name)
