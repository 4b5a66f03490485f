"""A model of FSDP2, whose ranks hold pieces of its parameters, evaluated without FSDP's hooks."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hesse._autograd import graph
from hesse._base.several_ranks import is_dtensor, is_fsdp, refuse_model
from hesse._data.cut_model import CutModel
from hesse._data.private_model import Private, Result
from hesse._data.unit_calls import Calls, UnitParts, UnitPlan, make_unit, owners_of, unit_plans
from hesse._data.units import Absent, Apart
from hesse._ranks.group import Ranks
from hesse._ranks.pieces import Bundle, Groups, Share, gathered

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_FSDP = "torch.distributed.fsdp"


def reshard(model: nn.Module) -> None:
    """Register the sharded parameters, in whose place a forward may have left whole ones."""
    for module in model.modules():
        if is_fsdp(module):
            module.reshard()  # type: ignore[operator]  # a method of FSDP's class


def group_of(model: nn.Module, name: str) -> dist.ProcessGroup:
    """The group of all ranks that hold pieces of a model, or one sentence that says why it cannot be evaluated."""
    reshard(model)
    refuse_model(model, name, cut=True)
    cut = [(key, parameter) for key, parameter in model.named_parameters() if is_dtensor(parameter)]
    if not cut:
        raise ValueError(f"The model of FSDP given to {name} has no sharded parameter.")
    mesh = cut[0][1].device_mesh  # type: ignore[attr-defined]  # only DTensor has it
    for key, parameter in cut:
        _require_supported(key, parameter, mesh, name)
    for key, module in model.named_modules():
        if is_fsdp(module):
            require_plain(key, module, name)
    if mesh.ndim == 1:
        return mesh.get_group()  # type: ignore[no-any-return]  # of a class without annotations
    if mesh.size() != dist.get_world_size():
        raise NotImplementedError(
            f"{name} takes a model that is sharded and replicated by all {dist.get_world_size()} ranks, but got one of"
            f" {mesh.size()} ranks. Shard it over one dimension of the mesh."
        )
    group = dist.group.WORLD
    assert group is not None
    return group


def _require_supported(key: str, parameter: Any, mesh: Any, name: str) -> None:
    kinds = [type(placement).__name__ for placement in parameter.placements]
    if kinds not in (["Shard"], ["Replicate", "Shard"]) or parameter.device_mesh != mesh:
        raise NotImplementedError(
            f"{name} takes a model whose parameters fully_shard cut over one mesh, but {key!r} is placed as"
            f" {parameter.placements} on {parameter.device_mesh}."
        )
    if parameter.dtype.is_complex:
        raise NotImplementedError(f"{name} takes sharded parameters that are real, but {key!r} is complex.")
    if parameter.device.type != mesh.device_type:
        raise NotImplementedError(
            f"{name} evaluates a model where its mesh is, on {mesh.device_type}, but {key!r} is offloaded to"
            f" {parameter.device}. Shard the model without offload_policy."
        )


def require_plain(key: str, module: nn.Module, name: str) -> None:
    """Refuse what FSDP's hooks would do to numbers."""
    where = repr(key) if key else "the model"
    policy = getattr(module._get_fsdp_state(), "_mp_policy", None)  # type: ignore[operator]  # of FSDP's class
    wanted = {getattr(policy, field, None) for field in ("param_dtype", "output_dtype")} - {
        None,
        *[parameter.dtype for parameter in module.parameters()],
    }
    if wanted:
        raise NotImplementedError(
            f"{name} evaluates a model of FSDP in the dtype of its parameters, but the policy of {where}"
            f" is of mixed precision, {min(map(str, wanted))}. Make a model without mp_policy for {name}; its"
            " parameters may have that dtype, or the operator may be made under torch.autocast."
        )
    for attribute, value in vars(module).items():
        if getattr(value, "__self__", None) is module and _is_of_fsdp(value):
            raise NotImplementedError(
                f"{name} evaluates a model of FSDP by its forward, but {attribute!r} of {where} is"
                " registered as another forward method. Make a model without register_fsdp_forward_method."
            )


def _is_of_fsdp(function: Any) -> bool:
    """Whether a hook or a method is FSDP's own, or one that FSDP made of another."""
    plain = getattr(function, "__func__", function)
    places = getattr(plain, "__module__", ""), getattr(plain, "__globals__", {}).get("__name__", "")
    return any(str(place).startswith(_FSDP) for place in places)


class ShardedModel(CutModel):
    """A model with pieces of its chosen parameters as variables, of which each evaluation gathers whole ones.

    Its private copies have neither the hooks nor the classes of FSDP, whose state and parameters stay as they are.

    Args:
        model, chosen, functions, name: as of :class:`CutModel`; the model's parameters are sharded now.
        ranks: those that hold the pieces.
    """

    shares = True

    def __init__(
        self, model: nn.Module, chosen: dict[str, nn.Parameter], functions: Sequence[Any], name: str, ranks: Ranks
    ) -> None:
        super().__init__(model, chosen, functions, name, self._groups_of(model, ranks))
        self._x: Sequence[Tensor] | None = None
        self._within: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._cut_up()

    def _groups_of(self, model: nn.Module, ranks: Ranks) -> Groups:
        mesh = next(entry.device_mesh for entry in model.parameters() if is_dtensor(entry))  # type: ignore[attr-defined]  # a DTensor
        along = mesh.ndim - 1
        return Groups(ranks, mesh.get_group(along), mesh.get_group(0) if along else None)

    def _plans(self) -> list[UnitPlan]:
        return unit_plans(self.module, self.apart)

    def _cut_up(self) -> None:
        """What is gathered where: each unit's parameters in its call, all others when an evaluation begins."""
        plans = self._plans()
        tensors, variables = self._blueprint.tensors, list(self.chosen.values())
        positions = {id(variables[i]): i for i, place in enumerate(self._variables) if place is not None}
        owners = owners_of(self.module)
        inside = {id(parameter): plan for plan in plans for parameter in plan.parameters}
        groups: dict[Any, list[int]] = {}
        for position in positions.values():
            parameter: Tensor = variables[position]
            plan = inside.get(id(parameter))
            owner = min(owners[id(parameter)]) if plan is None else plan.key
            groups.setdefault((plan is None, owner, parameter.dtype), []).append(position)
        bundles = {
            key: (
                Bundle(
                    self.groups,
                    [self._pieces[i] for i in chosen],
                    "parameters of the model" if key[0] else f"the parameters of {key[1]!r}",
                ),
                chosen,
            )
            for key, chosen in groups.items()
        }
        self._bundles = [bundle for (is_apart, *_), bundle in bundles.items() if is_apart]
        self._constants_apart: list[tuple[Bundle, int]] = []
        frozen: dict[str, list[tuple[Bundle, Tensor, Tensor]]] = {plan.key: [] for plan in plans}
        self._absent: list[tuple[int, Absent]] = []
        for place in self._blueprint.parameters:
            parameter = tensors[place]
            is_variable = id(parameter) in positions
            if not (is_variable or is_dtensor(parameter)):
                # A constant that every rank has whole.
                continue
            plan = inside.get(id(parameter))
            if plan is not None:
                self._absent.append((place, Absent.of(parameter, plan.key)))
            if is_variable:
                continue
            piece = self._piece(parameter)
            bundle = Bundle(self.groups, [piece], "a constant parameter")
            if plan is None:
                self._constants_apart.append((bundle, place))
            else:
                frozen[plan.key].append((bundle, self._here(parameter, piece), parameter))
        self._units = {
            plan.key: UnitParts(
                plan, [bundles[key] for key in bundles if key[:2] == (False, plan.key)], frozen[plan.key], variables
            )
            for plan in plans
        }

    def run(self, x: Sequence[Tensor], evaluate: Callable[[Private], Result]) -> Result:
        """As of a plain model; a module that cannot be a unit is found out on the way, and is none from then on."""
        while True:
            try:
                return super().run(x, evaluate)
            except Apart as apart:
                if apart.key not in self._units:
                    raise
                self.apart.add(apart.key)
                self._cut_up()

    def _put(self, x: Sequence[Tensor], tensors: list[Any]) -> None:
        self.share, self._x, self._within = Share(), x, {}
        x, variables = self._sharded(x), list(self.chosen.values())
        for bundle, positions in self._bundles:
            wholes = gathered(bundle, self.share, [x[i] for i in positions])
            for position, whole in zip(positions, wholes, strict=True):
                tensors[self._variables[position]] = self._whole(whole, variables[position])  # type: ignore[index]  # these have a place
        with torch.no_grad():
            for bundle, place in self._constants_apart:
                parameter = self._blueprint.tensors[place]
                (whole,) = bundle.gather([parameter.detach().to_local()])  # type: ignore[attr-defined]  # a DTensor
                tensors[place] = self._whole(whole, parameter)
        for place, absent in self._absent:
            tensors[place] = absent

    def _sharded(self, x: Sequence[Tensor]) -> Sequence[Tensor]:
        """Pieces of FSDP of the variables."""
        return x

    def _whole(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """What the model computes with, of a gathered parameter."""
        return whole

    def _made(self, tensors: Sequence[Any]) -> Private:
        private = super()._made(tensors)
        modules = dict(private.module.named_modules())
        for module in modules.values():
            if is_fsdp(module):
                _take_off(module)
        x, self._x = self._x, None
        if x is not None:
            for key, parts in self._units.items():
                calls = Calls(parts, x, self.share, keeps=self.keeps, note=functools.partial(self._note, key))
                make_unit(modules[key], calls)
        return private

    def _note(self, key: str, tensors: Sequence[Tensor]) -> None:
        """Tensors that stand for others within a unit, where outputs of the model must not lead."""
        self._within.update({id(tensor): (weakref.ref(tensor), key) for tensor in tensors})

    def require_followed(self, outputs: Sequence[Tensor], x: Sequence[Tensor]) -> None:
        """As of a plain model; and raise where outputs depend on what left a unit otherwise than by its output."""
        for leaf in graph.leaves(outputs):
            found, key = self._within.get(id(leaf), (None, ""))
            if found is not None and found() is leaf:
                raise Apart(key)
        super().require_followed(outputs, x)

    def change(self) -> str | None:
        """As of a plain model; a forward of the user's may have left whole parameters in place of the sharded ones."""
        reshard(self.module)
        return super().change()

    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers that every rank has whole."""
        yield from [entry for entry in self.module.parameters() if not is_dtensor(entry)]
        yield from self.module.buffers()

    @property
    def num_units(self) -> int:
        """How many parts are called one after another; one, where there is no unit."""
        return max(1, len(self._units))

    def whole_bytes(self) -> int:
        """What is whole at a time takes: the parameters of the largest unit, and all that are in none."""
        sizes = [parameter.numel() * parameter.element_size() for parameter in self.chosen.values()]
        units = [sum([sizes[position] for position in parts.positions]) for parts in self._units.values()]
        return sum(sizes) - sum(units) + max(units, default=0)


def _take_off(copy: nn.Module) -> None:
    """Make a private copy a module as it was before ``fully_shard``."""
    for table in _HOOKS:
        held = vars(copy)[table]
        kept = type(held)([(key, hook) for key, hook in held.items() if not _is_of_fsdp(hook)])
        vars(copy)[table] = kept
    # The class that fully_shard makes has FSDP's methods first, and then the module's own class.
    copy.__class__ = type(copy).__bases__[-1]
