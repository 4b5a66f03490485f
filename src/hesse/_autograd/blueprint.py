"""Private copies of a user's modules, and of what is bound to them: nothing that an evaluation does reaches the user's.

A copy shares its tensors with the original, or is given others. It has its own of all else that an evaluation may
change: the modules below it, and the containers, plain objects and random generators that these hold. Methods, hooks,
partial functions and closures that lead to something that is copied lead to the copy instead.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hesse._autograd import captured, copying, objects
from hesse._autograd.captured import ByMemory, is_users_code
from hesse._autograd.code_names import stored_cells
from hesse._autograd.copying import Build, Copies
from hesse._autograd.generators import GeneratorPlan, is_own
from hesse._autograd.objects import CACHE, CONTAINERS, attributes_of, entries_of, is_plain_object
from hesse._autograd.scripted import ScriptCopy

_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, type, types.ModuleType}
    | {torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format}
)
# How many plain objects that hold one another are followed: a trainer reaches everything.
_DEPTH = 4


class Blueprint:
    """How to copy some objects, as they are when this is made.

    Args:
        roots: modules, and functions that may lead to what these hold.
        owned: whether roots that are no modules are copied as well, with what they hold. Parameters in them are tensors
            like others.

    Attributes:
        nodes: what is copied: modules, containers, plain objects, generators, functions.
        tensors: those that a copy can be given others for, each once.
        parameters, buffers, plain, derived: their places among ``tensors``. Plain ones are neither parameters nor
            buffers. Derived ones have a history, as what a layer made of its parameters and keeps; a copy may be given
            None for them, and is then without them.
    """

    def __init__(self, *roots: Any, owned: bool = False) -> None:
        self._owned = owned
        self.tensors: list[Tensor] = []
        self.parameters: list[int] = []
        self.buffers: list[int] = []
        self.plain: list[int] = []
        self.derived: list[int] = []
        # Kept alive, so that no other object takes the identity of one of them.
        self.nodes: list[Any] = []
        self._looked_into: dict[int, Any] = {}
        self._methods_of: dict[Any, list[tuple[str, Build]]] = {}
        # What globals reach that leads to nothing; they stay alive meanwhile.
        self._inert: set[int] = set()
        self._places: dict[int, int] = ByMemory()
        self._tensor_places: dict[int, int] = ByMemory()
        for root in roots:
            if owned or isinstance(root, nn.Module):
                self._own(root, _DEPTH)
        self._roots = [self._always(root) for root in roots]
        self._needed: dict[int, tuple[list[int], set[int]]] = {}
        self._plans: list[copying.Plan] = []
        # Planning one node may find others.
        while len(self._plans) < len(self.nodes):
            self._plans.append(self._plan(self.nodes[len(self._plans)]))
        # What a key is must be there before it is hashed.
        self._last = frozenset(
            [place for place, plan in enumerate(self._plans) if getattr(plan, "hashes_copies", False)]
        )

    def make(self, tensors: Sequence[Tensor | None], first: int = 0) -> list[Any]:
        """Copies of the roots, from the first on, with other tensors in the place of ``tensors``."""
        places: Sequence[int] = self.needed(first)[0] if first else range(len(self._plans))
        copies: list[Any] = [None] * len(self._plans)
        for place in places:
            copies[place] = self._plans[place].allocate(copies)
        for place in places:
            if place not in self._last:
                self._plans[place].fill(copies[place], copies, tensors)
        for place in sorted(self._last.intersection(places)) if self._last else ():
            self._plans[place].fill(copies[place], copies, tensors)
        return [build(copies, tensors) for build in self._roots[first:]]

    def needed(self, first: int) -> tuple[list[int], set[int]]:
        """The places of the nodes, and of the tensors, that copies of the roots from the first on are made of."""
        if first not in self._needed:
            copies, tensors = _Noting([None] * len(self._plans)), _Noting(self.tensors)
            asked: list[set[int]] = []
            for place, plan in enumerate(self._plans):
                copies[place] = plan.allocate(copies)
                asked.append(copies.taken())
            of_nodes: dict[int, set[int]] = {}
            made = list(copies)
            for place in sorted(range(len(made)), key=lambda place: place in self._last):
                self._plans[place].fill(made[place], copies, tensors)
                asked[place] |= copies.taken()
                of_nodes[place] = tensors.taken()
            for build in self._roots[first:]:
                build(copies, tensors)
            found, used = copies.taken(), tensors.taken()
            left = list(found)
            for place in left:
                used |= of_nodes[place]
                left += asked[place] - found
                found |= asked[place]
            self._needed[first] = sorted(found), used
        return self._needed[first]

    def require_found(self, roots: Sequence[Any], name: str) -> None:
        """Raise where code of the roots looks up something that is copied, by its identity, in what copies share."""
        passed: dict[int, tuple[Any, frozenset[str]]] = {}
        found = [entry for root in roots for entry in captured.reach(root, passed=passed)]
        # A class leads to its own containers, whichever of them are copied.
        classes = [captured.data_of_class(kind, named) for kind, named in passed.values() if isinstance(kind, type)]
        of_classes = {id(entry) for held in classes for entry in held.values()}
        # What PyTorch's own objects hold is theirs to find, as the states of sharded modules.
        librarys = [held for held, _ in passed.values() if _is_pytorchs(held)]
        theirs = {id(entry) for held in librarys for _, entry in captured.children(held)}
        for path, value in found:
            is_container = isinstance(value, (dict, set, *objects.WEAK)) and id(value) not in theirs
            if not is_container or not self._has_a_key_of_ours(value):
                continue
            if id(value) not in self._places or id(value) in of_classes:
                raise RuntimeError(
                    f"The model given to {name} finds state by its own identity in {path!r}, where its private copies"
                    " do not find themselves. Keep that state in an attribute of the model."
                )

    def _has_a_key_of_ours(self, container: Any) -> bool:
        if isinstance(container, ByMemory):
            return False
        parts = [part for key in list(container) for part in (key if isinstance(key, tuple) else (key,))]
        numbers = {part if type(part) is int else id(part) for part in parts}
        return not (self._places.keys().isdisjoint(numbers) and self._tensor_places.keys().isdisjoint(numbers))

    # What is copied: the modules, and what belongs to them.

    def _own(self, value: Any, depth: int) -> None:
        if type(value) in _ATOMS or id(value) in self._places:
            return
        if isinstance(value, Tensor):
            is_variable = value.requires_grad and value.is_leaf
            if not is_variable and (self._owned or not isinstance(value, nn.Parameter)):
                self._take([value], self.derived if value.requires_grad else self.plain)
        elif isinstance(value, np.ndarray):
            self._take_array(value)
        elif isinstance(value, torch.jit.ScriptModule):
            self._register(value)
            self._take(ScriptCopy.parameters(value), self.parameters)
            self._take(ScriptCopy.buffers(value), self.buffers)
        elif isinstance(value, nn.Module):
            self._register(value)
            attributes = attributes_of(value)
            self._take(attributes["_parameters"].values(), self.parameters)
            self._take(attributes["_buffers"].values(), self.buffers)
            for child in attributes["_modules"].values():
                self._own(child, depth)
            for _, entry in objects.own_attributes(attributes):
                self._own(entry, depth)
            for entry in objects.class_containers(value).values():
                self._own(entry, depth)
        elif isinstance(value, CONTAINERS):
            if not isinstance(value, tuple | frozenset):
                self._register(value)
            for entry in entries_of(value):
                self._own(entry, depth)
        elif is_own(value) or isinstance(value, objects.COPYABLE):
            self._register(value)
        elif isinstance(value, types.FunctionType):
            self._own_state(value, depth)
        elif isinstance(value, types.MethodType | types.BuiltinMethodType | functools.partial | CACHE):
            for entry in _reached(value):
                self._own(entry, depth)
        elif isinstance(value, objects.WEAK):
            self._register(value)
            for entry in entries_of(value):
                self._own(entry, depth)
        elif depth and is_plain_object(value):
            self._register(value)
            for entry in attributes_of(value).values():
                self._own(entry, depth - 1)

    def _own_state(self, function: types.FunctionType, depth: int) -> None:
        """What a function of the user's keeps between its calls: in its closure, its defaults and its attributes."""
        if not depth or id(function) in self._looked_into or not is_users_code(function):
            return
        self._looked_into[id(function)] = function
        if vars(function).keys() - {"__wrapped__"}:
            self._register(function)
        names = stored_cells(function.__code__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name in names and id(cell) not in self._places:
                self._register(cell)
        for entry in [*copying.closure_of(function).values(), *copying.defaults_of(function), *vars(function).values()]:
            self._own(entry, depth - 1)

    def _take_array(self, array: np.ndarray[Any, Any]) -> None:
        """An array of NumPy's, as a plain tensor of the same memory where there can be one."""
        if id(array) in self._tensor_places or not array.flags.writeable:
            return
        try:
            tensor = torch.from_numpy(array) if type(array) is np.ndarray else None
        except (TypeError, ValueError):
            tensor = None
        if tensor is None:
            self._register(array)
            return
        self._take([tensor], self.plain)
        self._tensor_places[id(array)] = self._tensor_places[id(tensor)]
        self._looked_into[id(array)] = array

    def _take(self, tensors: Any, kind: list[int]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor) and id(tensor) not in self._tensor_places and not is_lazy(tensor):
                self._tensor_places[id(tensor)] = len(self.tensors)
                kind.append(len(self.tensors))
                self.tensors.append(tensor)

    def _register(self, value: Any) -> None:
        self._places[id(value)] = len(self.nodes)
        self.nodes.append(value)

    # What leads to something that is copied.

    def _leads(self, value: Any, seen: set[int], depth: int) -> bool:
        if type(value) is int:
            return self._stands_in_for(value) is not None
        if type(value) in _ATOMS or id(value) in seen:
            return False
        seen.add(id(value))
        if isinstance(value, nn.Module):
            tensors = [id(parameter) for parameter in value.parameters()]
            modules = [id(module) for module in value.modules()]
            return not (self._places.keys().isdisjoint(modules) and self._tensor_places.keys().isdisjoint(tensors))
        if self._stands_in_for(value) is not None:
            return True
        if is_plain_object(value):
            if not depth:
                return False
            depth -= 1
        return any(self._leads(entry, seen, depth) for entry in _reached(value))

    def _stands_in_for(self, value: Any) -> Build | None:
        # Of an object, or its identity as id() gives it, by which things are looked up.
        by_number = type(value) is int
        key = value if by_number else id(value)
        place = self._places.get(key)
        if place is not None:
            return _identity(_copy_at(place)) if by_number else _copy_at(place)
        place = self._tensor_places.get(key)
        if place is None:
            return None
        if isinstance(value, np.ndarray):
            return _array_at(place, self.tensors[place], value)
        return _identity(_tensor_at(place)) if by_number else _tensor_at(place)

    def _entry(self, value: Any) -> Build | None:
        """How to make what stands in the place of a value; None where that is the value itself."""
        if type(value) is int:
            return self._stands_in_for(value)
        if type(value) in _ATOMS:
            return None
        found = self._stands_in_for(value)
        if found is not None or not self._leads(value, set(), _DEPTH):
            return found
        compiled = getattr(value, "_torchdynamo_orig_callable", None)
        if compiled is not None and not isinstance(value, nn.Module):
            # Compiled functions run eagerly here.
            return self._entry(compiled)
        if isinstance(value, nn.Module):
            self._own(value, _DEPTH)
            return self._stands_in_for(value)
        if isinstance(value, types.MethodType | functools.partial | weakref.ref | CACHE | tuple | frozenset):
            return copying.immutable(value, self._always)
        if isinstance(value, types.BuiltinMethodType):
            return copying.immutable(value, self._always)
        self._register(value)
        return self._stands_in_for(value)

    def _methods(self, kind: Any) -> list[tuple[str, Build]]:
        """A model is also known by what its methods read of globals: which of them need others."""
        if kind not in self._methods_of:
            # Methods may lead to each other.
            self._methods_of[kind] = found = []
            for name, method in objects.plain_methods(kind):
                if any([self._global_leads(value) for value in copying.globals_of(method).values()]):
                    found.append((name, self._always(method)))
        return self._methods_of[kind]

    def _global_leads(self, value: Any) -> bool:
        leads = self._leads(value, self._inert, _DEPTH)
        if leads:
            self._inert = set()
        return leads

    def _always(self, value: Any) -> Build:
        return self._entry(value) or (lambda copies, tensors: value)

    def _plan(self, value: Any) -> copying.Plan:
        if isinstance(value, torch.jit.ScriptModule):
            return ScriptCopy(value, self._tensor_places)
        if isinstance(value, nn.Module):
            return copying.ModulePlan(value, self._entry, self._tensor_places, self._methods)
        if isinstance(value, types.FunctionType):
            return copying.FunctionPlan(value, self._entry, self._places)
        if isinstance(value, objects.WEAK):
            return copying.WeakPlan(value, self._always)
        if isinstance(value, types.CellType):
            return copying.CellPlan(value, self._entry)
        if isinstance(value, CONTAINERS):
            return copying.ContainerPlan(value, self._entry)
        if is_own(value):
            return GeneratorPlan(value)
        if isinstance(value, (np.ndarray, *objects.COPYABLE)):
            return copying.CopyPlan(value)
        return copying.ObjectPlan(value, self._entry)


class _Noting(list[Any]):
    """A list that knows which of its entries were asked for."""

    def __init__(self, entries: Sequence[Any]) -> None:
        super().__init__(entries)
        self._asked: set[int] = set()

    def __getitem__(self, place: Any) -> Any:
        self._asked.add(place)
        return super().__getitem__(place)

    def taken(self) -> set[int]:
        """Those since the last call."""
        asked, self._asked = self._asked, set()
        return asked


# Functions of their own, since a function that makes several of these would make the variables of all.


def _copy_at(place: int) -> Build:
    return lambda copies, tensors: copies[place]


def _tensor_at(place: int) -> Build:
    return lambda copies, tensors: tensors[place]


def _identity(build: Build) -> Build:
    return lambda copies, tensors: id(build(copies, tensors))


def _array_at(place: int, original: Tensor, array: Any) -> Build:
    def build(copies: Copies, tensors: Sequence[Tensor | None]) -> Any:
        tensor = tensors[place]
        assert tensor is not None
        return array if tensor is original else tensor.numpy()

    return build


def _is_pytorchs(value: Any) -> bool:
    """Whether a value is a function of PyTorch's, or an object of its classes that is no module."""
    owner = value if isinstance(value, types.FunctionType) else type(value)
    return (owner.__module__ or "").partition(".")[0] == "torch" and not isinstance(value, nn.Module)


def _reached(value: Any) -> Iterator[Any]:
    """What a function, or what is bound to something, gets by itself."""
    if isinstance(value, types.FunctionType):
        yield getattr(value, "_torchdynamo_orig_callable", None)
        yield from value.__closure__ or ()
        yield from copying.closure_of(value).values()
        yield from copying.defaults_of(value)
        yield from copying.globals_of(value).values()
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.BuiltinMethodType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, CACHE):
        yield value.__wrapped__
    elif isinstance(value, CONTAINERS + objects.WEAK):
        yield from entries_of(value)
    elif is_plain_object(value):
        yield from attributes_of(value).values()
