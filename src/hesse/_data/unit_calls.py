"""Which modules of a sharded model are units, and how a private copy of one is called."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hesse._base import trees
from hesse._base.several_ranks import is_fsdp
from hesse._data.units import Unit
from hesse._ranks.pieces import Bundle, Share, gathered

_ATTRIBUTE = "_hesse_calls"


class UnitPlan(NamedTuple):
    """A module that is a unit.

    Attributes:
        key: its name.
        parameters: each once.
        slots: where each of them is: the name of a module within, its own name there, and its number.
    """

    key: str
    parameters: list[Tensor]
    slots: list[tuple[str, str, int]]


def owners_of(model: nn.Module) -> dict[int, set[int]]:
    """By identity of a parameter, the innermost modules of FSDP that have it: numbers in the order of modules."""
    numbers = {id(module): number for number, module in enumerate(model.modules())}
    owners: dict[int, set[int]] = {}
    pending, seen = [(model, 0)], set()
    while pending:
        module, owner = pending.pop()
        owner = numbers[id(module)] if is_fsdp(module) else owner
        if (id(module), owner) in seen:
            continue
        seen.add((id(module), owner))
        for _, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), set()).add(owner)
        pending += [(child, owner) for child in module.children()]
    return owners


def unit_plans(model: nn.Module, apart: set[str]) -> list[UnitPlan]:
    """The modules below the model itself that FSDP shards, with none of these and no foreign parameter within."""
    owners = owners_of(model)
    plans = []
    for number, (key, module) in enumerate(model.named_modules()):
        if not key or key in apart or not is_fsdp(module) or any(map(is_fsdp, [*module.modules()][1:])):
            continue
        parameters = list(module.parameters())
        if not parameters or any(owners[id(parameter)] != {number} for parameter in parameters):
            continue
        numbers = {id(parameter): i for i, parameter in enumerate(parameters)}
        slots = [
            (path, name, numbers[id(parameter)])
            for path, part in module.named_modules()
            for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
        ]
        plans.append(UnitPlan(key, parameters, slots))
    return plans


class UnitParts:
    """How a unit's parameters are gathered.

    Args:
        plan: of the unit.
        bundles: those that are variables, with their positions among all variables.
        frozen: constants, with this rank's pieces.
        variables: parameters by position.
    """

    def __init__(
        self,
        plan: UnitPlan,
        bundles: Sequence[tuple[Bundle, list[int]]],
        frozen: Sequence[tuple[Bundle, Tensor, Tensor]],
        variables: Sequence[Tensor],
    ) -> None:
        self.key = plan.key
        self.positions = [position for _, positions in bundles for position in positions]
        self._bundles = [bundle for bundle, _ in bundles]
        self._frozen = [(bundle, piece) for bundle, piece, _ in frozen]
        order = [id(variables[position]) for position in self.positions] + [id(parameter) for *_, parameter in frozen]
        places = {identity: place for place, identity in enumerate(order)}
        slots = [(path, name, id(plan.parameters[i])) for path, name, i in plan.slots]
        # What is gathered nowhere is a constant that the module has anyway.
        self._slots = [(path, name, places[identity]) for path, name, identity in slots if identity in places]

    def gather(self, share: Share, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Whole parameters: variables of these pieces, and constants."""
        found: list[Tensor] = []
        for bundle in self._bundles:
            start = len(found)
            found += gathered(bundle, share, pieces[start : start + len(bundle.pieces)])
        with torch.no_grad():
            for bundle, piece in self._frozen:
                found += bundle.gather([piece])
        return found

    @contextlib.contextmanager
    def installed(self, module: nn.Module, wholes: Sequence[Tensor]) -> Iterator[None]:
        """Within, a copy of the module has these parameters."""
        tables = [(module.get_submodule(path)._parameters, name, place) for path, name, place in self._slots]
        held = [table[name] for table, name, _ in tables]
        try:
            for table, name, place in tables:
                table[name] = wholes[place]  # type: ignore[assignment]  # a plain tensor, as in every private copy
            yield
        finally:
            for (table, name, _), entry in zip(tables, held, strict=True):
                table[name] = entry


class Calls:
    """Calls of a unit in one evaluation.

    Args:
        parts: how its parameters are gathered.
        x: all variables of the evaluation.
        share: what the evaluation counts.
        keeps, note: see :class:`Unit`.
    """

    def __init__(
        self,
        parts: UnitParts,
        x: Sequence[Tensor],
        share: Share,
        *,
        keeps: bool,
        note: Callable[[Sequence[Tensor]], None],
    ) -> None:
        self._parts, self._share, self._keeps, self._note = parts, share, keeps, note
        self._pieces = [x[position] for position in parts.positions]

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a copy of the module, by its class's own ``__call__``."""
        leaves, spec = trees.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        followed = [*self._pieces, *[leaves[i] for i in places]]
        gather = functools.partial(self._parts.gather, self._share)
        install = functools.partial(self._parts.installed, module)
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in followed):
            with torch.no_grad():
                wholes = gather(self._pieces)
            with install(wholes):
                return forward(*args, **kwargs)
        for place in places:
            leaves[place] = None
        made: list[Any] = []

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            full = list(leaves)
            for place, tensor in zip(places, given, strict=True):
                full[place] = tensor
            positional, named = spec.rebuild(full)
            outputs, structure = trees.flatten(forward(*positional, **named))
            where = [i for i, leaf in enumerate(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
            found = [outputs[i] for i in where]
            for place in where:
                outputs[place] = None
            made[:] = [outputs, structure, where]
            return found

        unit = Unit(
            self._parts.key, self._share, gather, install, run, len(self._pieces), keeps=self._keeps, note=self._note
        )
        found = unit.evaluated(followed)
        outputs, structure, where = made
        for place, output in zip(where, found, strict=True):
            outputs[place] = output
        made.clear()
        return structure.rebuild(outputs)


class _Called:
    """What is put before the class of a copy."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls: Calls = vars(self)[_ATTRIBUTE]
        return calls.call(self, super().__call__, args, kwargs)  # type: ignore[arg-type, misc]  # of a module's class


def make_unit(copy: nn.Module, calls: Calls) -> None:
    """Let a private copy of a module be called as a unit."""
    vars(copy)[_ATTRIBUTE] = calls
    kind: Any = type(copy)
    copy.__class__ = _class_of(kind)


@functools.lru_cache(maxsize=1024)
def _class_of(kind: type) -> Any:
    return type(kind.__name__, (_Called, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
