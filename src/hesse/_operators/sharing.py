"""Points that several ranks make together: what they agree on, and what is compared, before the first product."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hesse._base.errors import warn_caller
from hesse._base.precision import told
from hesse._base.several_ranks import dealt, is_parallel, is_sharded, replicated
from hesse._base.version import __version__
from hesse._data.cut_model import CutModel
from hesse._data.mesh_model import mesh_group_of, mesh_of
from hesse._data.models import Objective
from hesse._data.options import DataOptions
from hesse._data.parallel_model import parallel_group_of
from hesse._data.sharded_model import group_of, reshard
from hesse._operators.data_point import DataPoint, drawn_seed
from hesse._operators.function_point import FunctionPoint
from hesse._operators.parallel_point import ParallelPoint
from hesse._operators.sharded_point import ShardedPoint
from hesse._operators.shared_point import SharedPoint
from hesse._ranks.group import Ranks
from hesse._ranks.marks import differs, mark
from hesse._ranks.waiting import listed

# Copies of one tensor have equal marks but for the rounding of a sum.
_EQUAL = 1e-9
_CPU = torch.device("cpu")
_FREE = ("memory", "progress", "group")
"""Options that may be other on each rank."""


def ranks_of(model: nn.Module, group: dist.ProcessGroup | None, name: str) -> tuple[nn.Module, Ranks | None]:
    """The model that each rank evaluates, and the ranks that have other data for it; None for a process alone."""
    if isinstance(model, nn.Module) and (is_sharded(model) or is_parallel(model)):
        reshard(model)
        of = parallel_group_of if is_parallel(model) else group_of if mesh_of(model) is None else mesh_group_of
        own = of(model, name)
        if group is not None and group is not own:
            raise ValueError(
                f"{name} was given group= and a model that is sharded over another group. Leave group= out."
            )
        return model, Ranks.of(own, alone=True)
    inner, own = replicated(model, name)
    if group is not None and own is not None and group is not own:
        raise ValueError(f"{name} was given group= and a model of another group. Leave group= out.")
    return inner, Ranks.of(own if group is None else group)


def seed_of(ranks: Ranks | None, model: nn.Module, what: str, seed: int) -> int:
    """Another seed on each rank, all from that of the first; the same where ranks evaluate a batch together."""
    if ranks is None:
        return seed
    first, mesh = ranks.gather(what, lambda: seed)[0], mesh_of(model)
    if is_parallel(model):
        return first
    return _of_rank(first, ranks.rank if mesh is None else mesh.get_local_rank(0))


def _of_rank(seed: int, rank: int) -> int:
    return int(np.random.default_rng([seed, rank]).integers(2**61)) if rank else seed


def at_point(name: str, ranks: Ranks | None, make: Callable[[], FunctionPoint]) -> FunctionPoint | SharedPoint:
    """A function at a point, or the sum of the functions of all ranks there."""
    if ranks is None:
        return make()
    made: list[FunctionPoint] = []

    def local() -> dict[str, Any]:
        made.append(make())
        (point,) = made
        return {
            "inputs": _shapes(point.variables.leaves),
            "an output of shape": tuple(point.value.shape),
            "mark": mark(point.variables.leaves, _CPU),
        }

    found = ranks.gather(f"the making of a {name}", local)
    _require_one(ranks, name, found, "inputs")
    return SharedPoint(ranks, made[0], 1.0)


def share_data(
    ranks: Ranks,
    name: str,
    objective: Callable[[], Objective],
    make: Callable[[Objective, DataOptions, int], DataPoint],
    options: DataOptions,
    data: Any,
    *,
    is_new: bool,
) -> SharedPoint | ShardedPoint:
    """The weighted sum over the data of all ranks, of which each has the model, or pieces of its parameters.

    Args:
        ranks: those that make it.
        name: the operator's.
        objective: makes this rank's objective.
        make: makes this rank's point of an objective, options and a seed.
        options: as the user gave them.
        data: this rank's, as the user gave it.
        is_new: whether it is the first point of an operator.
    """
    made: list[Any] = []

    def facts() -> dict[str, Any]:
        made.append(objective())
        (own,) = made
        given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        return {
            "hesse": __version__,
            "torch": torch.__version__,
            "parameters": _shapes(own.model.chosen.values(), list(own.model.chosen)),
            **{key: value for key, value in given.items() if key not in _FREE},
            # Other values may have been given than the model's; pieces differ from rank to rank.
            "mark": mark([*own.tensors(), *([] if isinstance(own.model, CutModel) else own.leaves)], _CPU),
            "precision": told(own.leaves[0].device),
            "seed": drawn_seed(),
            "modules": zlib.crc32(repr(own.layers()).encode()),
            "dealt": dealt(data),
        }

    found = ranks.gather(f"the making of a {name}", facts)
    _require_one(ranks, name, found, "parameters and buffers")
    if len({facts["modules"] for facts in found}) > 1:
        ranks.require_alike(name, ranks.gather(f"the modules of a {name}", lambda: made[0].layers()))
    # A rank may have other data than a loader.
    samplers = [facts["dealt"] for facts in found]
    ranks.require_alike(name, [one or next(filter(None, samplers)) for one in samplers if any(samplers)])
    device = made[0].device or made[0].leaves[0].device
    allowed, is_shared = options.allowed(device), options.memory is None
    memory = ranks.least(f"the memory of a {name}", allowed, device, is_shared=is_shared)
    agreed = dataclasses.replace(options, memory=memory, progress=options.progress and ranks.is_first)
    teams = getattr(made[0].model, "teams", None) or [[rank] for rank in range(ranks.size)]
    seed = _of_rank(found[0]["seed"], next(place for place, team in enumerate(teams) if ranks.rank in team))

    if isinstance(made[0].model, CutModel):
        return _sharded(ranks, name, lambda: make(made[0], agreed, seed), is_new=is_new)

    def local() -> dict[str, Any]:
        made.append(make(made[0], agreed, seed))
        point: DataPoint = made[1]
        point.complete()
        return {
            "reduction": point.plan.reduction,
            "weight": point.weight,
            "checksums": point.batches.checksums,
        }

    parts = ranks.gather(f"the first pass of a {name}", local)
    return SharedPoint(ranks, made[1], _share(ranks, name, parts))


def _sharded(ranks: Ranks, name: str, make: Callable[[], DataPoint], *, is_new: bool) -> ShardedPoint:
    """The point that ranks make together, each step of it."""

    def together() -> ShardedPoint:
        point = make()
        assert isinstance(point, ShardedPoint)
        point.complete()
        return point

    point = ranks.together(f"the first pass of a {name}", together)
    parts = ranks.gather(
        f"what a {name} was made of",
        lambda: {"reduction": point.plan.reduction, "checksums": point.batches.checksums},
    )
    _require_one_reduction(name, parts)
    if isinstance(point, ParallelPoint):
        if is_new:
            point.require_exact()
    elif ranks.is_first:
        _warn_of_repeats(name, parts)
    return point


def _require_one_reduction(name: str, parts: Sequence[dict[str, Any]]) -> set[str]:
    """The reductions of ranks that have batches, which are one; or one sentence."""
    reductions = {part["reduction"] for part in parts if part["checksums"]}
    if len(reductions) > 1:
        raise ValueError(
            f"The loss given to {name} counts as a mean over rows on some ranks and as a sum on others. Give"
            ' reduction="mean" or "sum".'
        )
    return reductions


def _share(ranks: Ranks, name: str, parts: Sequence[dict[str, Any]]) -> float:
    """This rank's share of the sum over all data."""
    having = [rank for rank, part in enumerate(parts) if part["checksums"]]
    weight = sum(part["weight"] for part in parts)
    if not weight:
        what = "holds nothing that counts: all weights are zero" if having else "holds no batch"
        raise ValueError(f"The data given to {name} {what}, on any rank.")
    reductions = _require_one_reduction(name, parts)
    if ranks.is_first:
        _warn_of_repeats(name, parts)
    own = parts[ranks.rank]["weight"]
    if reductions == {"sum"}:
        return float(own > 0)
    return float(own / weight)


def _warn_of_repeats(name: str, parts: Sequence[dict[str, Any]]) -> None:
    seen: dict[int, tuple[int, int]] = {}
    for rank, part in enumerate(parts):
        for number, checksum in enumerate(part["checksums"]):
            other, place = seen.setdefault(checksum, (rank, number))
            if other != rank:
                warn_caller(
                    f"Batch {number} of rank {rank} in the data given to {name} is batch {place} of rank {other}, so"
                    " its rows count twice. Give each rank its own part, as by"
                    " torch.utils.data.DistributedSampler(data, drop_last=True)."
                )
                return


def _require_one(ranks: Ranks, name: str, found: Sequence[dict[str, Any]], what: str) -> None:
    """Raise, on all ranks, unless they are at one point and were told the same."""
    own = ("mark", "seed", "modules", "dealt")
    ranks.require_alike(name, [{key: facts[key] for key in facts if key not in own} for facts in found])
    others = [rank for rank, facts in enumerate(found) if differs(facts["mark"], found[0]["mark"], _EQUAL)]
    if others:
        raise ValueError(
            f"{name} needs the same {what} on all ranks, but {listed(others)} has others than rank 0. Copy them with"
            " torch.distributed.broadcast, from one rank to all."
        )


def _shapes(leaves: Iterable[Tensor], names: Sequence[str] = ()) -> str:
    shapes = [(leaf.dtype, tuple(leaf.shape)) for leaf in leaves]
    size = sum(leaf.numel() for leaf in leaves)
    return f"{len(shapes)} tensors of {size} elements ({zlib.crc32(repr((shapes, names)).encode()):08x})"
