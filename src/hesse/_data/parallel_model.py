"""A tensor parallel model, which all ranks evaluate together, each with its parts of the parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from hesse._base.several_ranks import is_dtensor, refuse_model
from hesse._data.cut_model import CutModel
from hesse._data.sharded_space import as_dtensor, is_cut
from hesse._ranks.group import Ranks
from hesse._ranks.pieces import Groups, Share, gathered
from hesse._ranks.together import Together

_KINDS = {"Shard", "Replicate"}


def parallel_group_of(model: nn.Module, name: str) -> dist.ProcessGroup:
    """The group of the ranks that evaluate a model together, or one sentence that says why it cannot be evaluated."""
    refuse_model(model, name, cut=True)
    cut: list[tuple[str, Any]] = [(key, entry) for key, entry in model.named_parameters() if is_dtensor(entry)]
    mesh = cut[0][1].device_mesh
    for key, parameter in cut:
        kinds = {type(placement).__name__ for placement in parameter.placements}
        if mesh.ndim != 1 or parameter.device_mesh != mesh or not kinds <= _KINDS:
            raise NotImplementedError(
                f"{name} takes a tensor parallel model whose parameters are sharded or replicated over one mesh of one"
                f" dimension, but {key!r} is placed as {parameter.placements} on {parameter.device_mesh}. Call"
                " parallelize_module with such a mesh, and not fully_shard."
            )
        if parameter.dtype.is_complex:
            raise NotImplementedError(f"{name} takes sharded parameters that are real, but {key!r} is complex.")
    return mesh.get_group()  # type: ignore[no-any-return]  # of a class without annotations


class ParallelModel(CutModel):
    """A model whose layers compute with DTensors; the function is one, of all ranks, and so is the batch.

    A parameter that is sharded stays where it is. One that every rank has whole is cut up as a variable, and gathered
    when an evaluation begins, so that its copies have the same digits.

    Args:
        model, chosen, functions, name: as of :class:`CutModel`; some parameters of the model are DTensors.
        ranks: those of its mesh.
    """

    def __init__(
        self, model: nn.Module, chosen: dict[str, nn.Parameter], functions: Sequence[Any], name: str, ranks: Ranks
    ) -> None:
        super().__init__(model, chosen, functions, name, Groups(ranks, ranks.group, None))
        self.teams = [list(range(ranks.size))]
        groups: dict[Any, list[int]] = {}
        for position, parameter in enumerate(chosen.values()):
            if self._variables[position] is not None:
                groups.setdefault((is_cut(parameter), parameter.dtype), []).append(position)
        names = list(chosen)
        self._bundles = []
        for (stay, _), positions in groups.items():
            note = functools.partial(self.marks.note, [names[i] for i in positions])
            bundle = Together(self.groups, [self._pieces[i] for i in positions], note, stay=stay)
            self._bundles.append((bundle, positions))

    def _put(self, x: Sequence[Tensor], tensors: list[Any]) -> None:
        self.share = Share()
        variables = list(self.chosen.values())
        for bundle, positions in self._bundles:
            wholes = gathered(bundle, self.share, [x[i] for i in positions])
            for position, entry in zip(positions, wholes, strict=True):
                parameter: Any = variables[position]
                if is_dtensor(parameter):
                    entry = as_dtensor(entry, parameter, parameter.device_mesh, parameter.placements)
                tensors[self._variables[position]] = entry  # type: ignore[index]  # these have a place

    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers that every rank has whole."""
        for parameter in self.module.parameters():
            if not is_cut(parameter):
                yield parameter.to_local() if is_dtensor(parameter) else parameter  # type: ignore[attr-defined]  # a DTensor
        yield from self.module.buffers()
