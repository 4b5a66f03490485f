"""``Reading``: what a function reaches, walked through again only where something on the way has changed."""

from __future__ import annotations

import itertools
import operator
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from hesse._autograd import captured, code_names

Found = list[tuple[str, Any]]

_WALKED = ("named_parameters", "named_buffers", "named_modules", "_named_members")
"""What a walk asks of a module. A module with its own may answer otherwise though nothing that it holds has changed."""


class Reading:
    """What a function reaches beside its arguments, as ``reach`` finds it.

    A second walk finds the same where each object on the way still holds the same objects by the same names, which
    takes a part of the time to see.

    Args:
        func: a function, or whatever else reaches what is read.
    """

    def __init__(self, func: Any) -> None:
        self.func = func
        self._last: tuple[Found, list[_Look]] | None = None

    def now(self) -> Found:
        """Names and objects at present; the same list as before where nothing has changed."""
        if self._last is not None:
            found, looks = self._last
            for look in looks:
                if not look.is_unchanged():
                    break
            else:
                return found
        passed: dict[int, tuple[Any, frozenset[str]]] = {}
        found = list(captured.reach(self.func, passed=passed))
        looks = [look for value, _ in passed.values() for look in _looks(value)]
        looks += [_Look.of(_of_class, owner) for owner in _users_classes([value for value, _ in passed.values()])]
        # Of a function too deep to be looked through, the code is part of a program.
        deep = [value for _, value in found if type(value) is types.FunctionType and id(value) not in passed]
        self._last = found, looks + [_Look.of(_code, function) for function in deep]
        return found

    def forget(self) -> None:
        """Let go of what was found, which is kept alive until then."""
        self._last = None

    def last(self) -> Found:
        """What was found the last time."""
        return self.now() if self._last is None else self._last[0]


class _Look(NamedTuple):
    """What a call has given once: names, and objects."""

    call: Callable[..., tuple[list[Any], list[Any]]]
    arguments: tuple[Any, ...]
    names: list[Any]
    objects: list[Any]

    @staticmethod
    def of(call: Callable[..., tuple[list[Any], list[Any]]], *arguments: Any) -> _Look:
        return _Look(call, arguments, *call(*arguments))

    def is_unchanged(self) -> bool:
        """Whether the call gives the same objects, by the same names."""
        names, objects = self.call(*self.arguments)
        # What was found is kept alive, so an object that is the same was never another in between.
        return (
            len(objects) == len(self.objects) and all(map(operator.is_, objects, self.objects)) and names == self.names
        )


def _looks(value: Any) -> Iterator[_Look]:
    """What decides where a walk goes from a value, beside its class."""
    members = list(value.modules()) if isinstance(value, torch.nn.Module) else [value]
    if isinstance(value, torch.nn.Module):
        yield from _looks_of_modules(members)
    elif type(value) is types.FunctionType:
        yield _look_of_function(value)
    elif isinstance(value, type):
        yield _Look.of(_bases, value)
    elif type(value) not in (tuple, frozenset) and _can_hold(value):
        yield _Look.of(_children, value)


def _users_classes(values: list[Any]) -> dict[type, None]:
    """The classes of the user's that these values, and the modules in them, are made of."""
    found: dict[type, None] = {}
    for value in values:
        members = value.modules() if isinstance(value, torch.nn.Module) else [value]
        for owner in [*{type(member) for member in members}, *([value] if isinstance(value, type) else [])]:
            found |= dict.fromkeys(captured.users_bases(owner.__mro__))
    return found


def _look_of_function(function: types.FunctionType) -> _Look:
    code = function.__code__
    if not captured.is_users_code(function):
        return _Look.of(_variables, function, [], (), [])
    names = sorted(code_names.global_names(code))
    imports = code_names.imported(code, function.__globals__.get("__package__"))
    attributes = sorted(code_names.attribute_names(code))
    # Where another module comes in, what led to it is another object.
    modules = captured.opened(captured.named_modules(function), attributes)
    read = [(vars(module), attribute) for _, module in modules for attribute in attributes]
    return _Look.of(_variables, function, names, imports, read)


def _variables(
    function: types.FunctionType, names: list[str], imports: tuple[str, ...], read: list[tuple[dict[str, Any], str]]
) -> tuple[list[Any], list[Any]]:
    """What a function reads. Its code, from which the names are, comes first."""
    words, held = function.__kwdefaults__ or {}, function.__dict__
    objects = [function.__code__, function.__module__, function.__defaults__, *words.values(), *held.values()]
    for cell in function.__closure__ or ():
        try:
            objects.append(cell.cell_contents)
        except ValueError:  # not filled yet
            objects.append(_ABSENT)
    # Maps of methods in C: beside a small product, a list that Python makes takes a while.
    objects += map(function.__globals__.get, names, itertools.repeat(_ABSENT))
    objects += map(sys.modules.get, imports, itertools.repeat(_ABSENT))
    if read:
        objects += [space.get(attribute, _ABSENT) for space, attribute in read]
    return [*words, *held], objects


def _code(function: types.FunctionType) -> tuple[list[Any], list[Any]]:
    return [], [function.__code__]


_ABSENT = object()


def _looks_of_modules(modules: list[torch.nn.Module]) -> Iterator[_Look]:
    yield _Look.of(_types, modules)
    for module in modules:
        if _has_its_own_ways(module):
            yield _Look.of(_unknown)
            continue
        yield _Look.of(_attributes, module)


def _has_its_own_ways(module: torch.nn.Module) -> bool:
    kind, held = type(module), vars(module)
    # Modules of TorchScript hold theirs in C++.
    return any([not isinstance(held.get(name), dict) for name in ("_parameters", "_buffers", "_modules")]) or any(
        [name in held or getattr(kind, name) is not getattr(torch.nn.Module, name) for name in _WALKED]
    )


def _can_hold(value: Any) -> bool:
    """Whether a walk may find something else in a value later."""
    has_slots = any(["__slots__" in vars(kind) for kind in type(value).__mro__])
    return (
        hasattr(value, "__dict__") or has_slots or isinstance(value, captured.HOLDERS) or captured.holds_objects(value)
    )


def _children(value: Any) -> tuple[list[Any], list[Any]]:
    # Of these, names take longer to make than to compare what is held.
    if type(value) is list:
        return [], value[: captured.ENTRIES]
    if type(value) is dict:
        count = captured.ENTRIES
        return list(itertools.islice(value, count)), list(itertools.islice(value.values(), count))
    names, objects = [], []
    for name, child in captured.children(value):
        names.append(name)
        objects.append(child)
    return names, [*objects, type(value), type(value).__mro__]


def _attributes(module: torch.nn.Module) -> tuple[list[Any], list[Any]]:
    held, parameters, buffers, modules = vars(module), module._parameters, module._buffers, module._modules
    objects = [*held.values(), *parameters.values(), *buffers.values(), *modules.values()]
    objects += [hook for table in captured.HOOKS for hook in held.get(table, {}).values()]
    return [*held, *parameters, *buffers, *modules], objects


def _types(values: list[Any]) -> tuple[list[Any], list[Any]]:
    return [], [kind for value in values for kind in (type(value), type(value).__mro__)]


def _of_class(owner: type) -> tuple[list[Any], list[Any]]:
    """All that a class has: of which a walk asks for some takes longer to tell."""
    held = vars(owner)
    return list(held), list(held.values())


def _bases(owner: type) -> tuple[list[Any], list[Any]]:
    return [], list(owner.__mro__)


def _unknown() -> tuple[list[Any], list[Any]]:
    """Nothing that could be the same a second time."""
    return [], [object()]
