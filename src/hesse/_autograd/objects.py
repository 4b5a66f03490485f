"""What objects hold, and their classes for them: attributes, slots and entries; which objects are nothing but these."""

from __future__ import annotations

import argparse
import array
import collections
import enum
import functools
import inspect
import io
import queue
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

MUTABLE: tuple[Any, ...] = (dict, list, set, collections.deque)
CONTAINERS = (*MUTABLE, tuple, frozenset)
CACHE = type(functools.lru_cache(lambda: None))
# Of what they hold, or look things up by, they keep nothing alive.
WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
_WEAK_DICTS = WEAK[:2]
_TABLES = frozenset({"_parameters", "_buffers", "_modules"})
# Tables of hooks and of names of buffers, nearly always empty.
HOOKS = frozenset([key for key, value in vars(nn.Module()).items() if key not in _TABLES and hasattr(value, "clear")])
_EVERY = _TABLES | HOOKS
_NOT_PLAIN = (type, BaseException, enum.Enum, Tensor, nn.Module, *CONTAINERS)
# Of Python's own and PyTorch's, what is nothing but its attributes.
NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_OF_LIBRARIES = (
    *NAMESPACES,
    *(collections.UserDict, collections.UserList, collections.ChainMap, queue.Queue),
    *(RemovableHandle, torch.quasirandom.SobolEngine),
)
# Changed in place, and copied by ``copy.copy``.
COPYABLE: tuple[Any, ...] = (
    *(bytearray, array.array, io.StringIO, io.BytesIO),
    *map(type, (iter([]), iter(()), iter(range(0)), iter(""))),
)
_LIBRARIES = frozenset({"torch", "hesse", "numpy", "scipy"})
_OF_PYTHON = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")})
# As a class may define its own.
set_attribute = object.__setattr__


def is_library(module: str | None) -> bool:
    """Whether a module, by its name, is Python's own or of a library that functions are made of."""
    name = (module or "").partition(".")[0]
    if name not in sys.stdlib_module_names or name == "__main__":
        return name in _LIBRARIES
    # A file of the user's may be called so, as wave.py.
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or file.startswith(_OF_PYTHON)


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of an instance, whatever its class says about them; a dict that is not to be changed."""
    held, slots = table_of(value) or {}, slots_of(value)
    return {**held, **slots} if slots else held


def table_of(value: Any) -> dict[str, Any] | None:
    """The dict that holds the attributes of an instance, if it has one."""
    return object.__getattribute__(value, "__dict__") if hasattr(value, "__dict__") else None


def slots_of(value: Any) -> dict[str, Any]:
    """The attributes of an instance that are in slots."""
    return {name: getattr(value, name) for name in names_of_slots(kind_of(value)) if hasattr(value, name)}


def kind_of(value: Any) -> Any:
    """Its class, as one that may be called and looked into."""
    return type(value)


def has_slots(value: Any) -> bool:
    """Whether a class of Python's that an object is of has slots."""
    return bool(names_of_slots(kind_of(value)))


def put_back_slots(value: Any, held: dict[str, Any]) -> None:
    """Into the slots of an object what they held."""
    now = slots_of(value)
    for name in now.keys() - held.keys():
        object.__delattr__(value, name)
    for name, entry in held.items():
        if now.get(name) is not entry or name not in now:
            set_attribute(value, name, entry)


@functools.lru_cache(maxsize=1024)
def names_of_slots(kind: Any) -> tuple[str, ...]:
    """The names of the slots of a class and of those above it."""
    found: list[str] = []
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        found += [name for name in ((names,) if isinstance(names, str) else names) if not name.startswith("__")]
    return tuple(found)


def entries_of(container: Any) -> Iterable[Any]:
    """What is in a container, the keys of a mapping too."""
    # Of weak ones an abstract class is asked, which takes long.
    if isinstance(container, dict) or (not isinstance(container, CONTAINERS) and isinstance(container, _WEAK_DICTS)):
        return [*container.keys(), *container.values()]
    return list(container)


def own_attributes(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    """Those of a module's attributes that are not its three tables, nor empty ones of hooks."""
    return [(key, value) for key, value in attributes.items() if key not in _EVERY or (key in HOOKS and value)]


def tables_of(attributes: dict[str, Any]) -> list[Any]:
    """The others."""
    return [value for key, value in attributes.items() if key in _TABLES or (key in HOOKS and not value)]


def is_plain_object(value: Any) -> bool:
    """Whether a value is nothing but its attributes: made by a class of Python's.

    One without attributes may be a mark, which is known by its identity, unless its class has defaults or slots.
    """
    kind = kind_of(value)
    if kind in _OF_LIBRARIES or isinstance(value, torch.optim.Optimizer):
        return True
    return _is_plain(kind) and (bool(attributes_of(value)) or _may_be_filled(kind))


@functools.lru_cache(maxsize=4096)
def _may_be_filled(kind: Any) -> bool:
    """Whether objects of a class begin without attributes of their own, and get some when they are used."""
    held = [value for base in kind.__mro__[:-1] for key, value in vars(base).items() if not key.startswith("__")]
    return bool(names_of_slots(kind)) or any(not callable(value) and not hasattr(value, "__get__") for value in held)


@functools.lru_cache(maxsize=4096)
def _is_plain(kind: Any) -> bool:
    # A class that ABCMeta is called for says that it is of that module.
    module = next(base.__module__ for base in kind.__mro__ if base.__module__ != "abc")
    if issubclass(kind, _NOT_PLAIN) or is_library(module) or module.partition(".")[0] == "sympy":
        return False
    # What ends with its object, as a file, cannot be had twice.
    if hasattr(kind, "__del__"):
        return False
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def cached_methods(kind: Any) -> list[tuple[str, Any]]:
    """Methods of a class that remember what they returned, by their arguments."""
    names = dict.fromkeys([name for base in kind.__mro__ for name in vars(base)])
    found = [(name, inspect.getattr_static(kind, name)) for name in names]
    return [(name, value) for name, value in found if isinstance(value, CACHE)]


@functools.lru_cache(maxsize=4096)
def plain_methods(kind: Any) -> list[tuple[str, types.FunctionType]]:
    """Methods of a class that are functions of a user's, and no more."""
    names = dict.fromkeys([name for base in _users_bases(kind) for name in vars(base)])
    found = [(name, inspect.getattr_static(kind, name)) for name in names]
    return [(name, value) for name, value in found if isinstance(value, types.FunctionType)]


def class_containers(module: nn.Module) -> dict[str, Any]:
    """By name, the containers of a module's class that serve as caches: empty, or with tensors in them."""
    held = attributes_of(module)
    found = {name: inspect.getattr_static(module, name) for name in _containers(kind_of(module)) if name not in held}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, MUTABLE) and (not value or any(isinstance(entry, Tensor) for entry in entries_of(value)))
    }


def _users_bases(kind: Any) -> list[Any]:
    return [base for base in kind.__mro__ if not is_library(base.__module__)]


@functools.lru_cache(maxsize=4096)
def _containers(kind: Any) -> list[str]:
    names = [name for base in _users_bases(kind) for name, value in vars(base).items() if isinstance(value, MUTABLE)]
    return [name for name in dict.fromkeys(names) if not name.startswith("__")]
