"""What a function reaches beside its arguments, and the tensors of a point.

Things are found where Python keeps them: closures, globals, defaults, bound objects, modules and containers.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import logging
import operator
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hesse._autograd import objects
from hesse._autograd.aliases import tensor_in
from hesse._autograd.arguments import Point
from hesse._autograd.code_names import attribute_names, global_names, imported
from hesse._base import trees

_DEPTH = 6
# Of a container.
ENTRIES = 1_000
# What calling an object calls, and a function of autograd.
_CALLED = frozenset({"__call__", "forward", "backward", "setup_context", "jvp", "vjp", "vmap"})
# Of what Python calls by no name: what only making an object calls, and what a function's result does not depend on.
_OF_MAKING = frozenset({"__init__", "__new__", "__post_init__"})
_UNCALLED = frozenset({"__init_subclass__", "__class_getitem__", "__set_name__", "__del__", "__repr__", "__str__"})
# What a user sets on a module of a library, beside objects of the user's own classes.
_DATA = {type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, weakref.WeakKeyDictionary}
# Of the hooks of modules those that an evaluation calls, or its derivatives.
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_LEAVES = Tensor, str, bytes, int, float
# What is noted on tensors and code, beside what the user sets.
_NOTES = ("_hesse_", "_dynamo_")
HOLDERS = (dict, list, tuple, set, frozenset, types.MappingProxyType, contextvars.ContextVar)
"""What holds others beside its attributes."""
# What every module has, hooks and tables of its parts; the parts themselves are found by their names.
_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module())) - {"training"}

Kind = TypeVar("Kind")


def same(now: Tensor, then: Tensor) -> bool:
    """Whether two tensors hold the same numbers; on the meta device they have none."""
    if now.is_meta or then.is_meta:
        return now.is_meta and then.is_meta and now.shape == then.shape
    if now.layout != torch.strided:
        return now.layout == then.layout and all(map(same, _dense_parts(now), _dense_parts(then)))
    # A NaN that stays a NaN is no change.
    return torch.equal(now, then) or (
        now.shape == then.shape and bool(((now == then) | ((now != now) & (then != then))).all())
    )


def _dense_parts(tensor: Tensor) -> list[Tensor]:
    """The places and values of a sparse tensor; other tensors as dense ones."""
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.to_dense()]


Name = str | trees.Path
"""What a tensor of a point is called: that of an argument is made of its path, where it is needed."""


def full_name(name: Name) -> str:
    """The name as a sentence begins with it."""
    return name if isinstance(name, str) else f"The input {trees.path_name(name) or 'tensor'}"


def arguments_of(point: Point) -> list[tuple[Name, Tensor]]:
    """Names and tensors of a point: its variables, and other arguments."""
    return [*zip(point.spec.paths, point.leaves, strict=True), *point.others]


def captured(func: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that ``func`` reaches beside its arguments."""
    return captured_among(reach(func))


def captured_among(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of what a function reaches; arrays of NumPy's as tensors in their memory."""
    for name, value in found:
        tensor = tensor_in(value)
        if tensor is not None:
            yield f"The captured {'tensor' if tensor is value else 'array'} {name!r}", tensor


def reached(func: Callable[..., Any], kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """Names and objects of a kind that ``func`` reaches beside its arguments; one may come more than once."""
    return ((name, value) for name, value in reach(func) if isinstance(value, kind))


def reach(
    value: Any,
    name: str = "",
    passed: dict[int, tuple[Any, frozenset[str]]] | None = None,
    depth: int = _DEPTH,
    most: int | None = None,
) -> Iterator[tuple[str, Any]]:
    """Names and objects of every kind that ``value`` reaches, itself included; its own name is ``name``.

    ``passed`` takes the objects that others were found in, by identity, and what was looked for in their classes.
    What objects hold is looked through down to ``depth``, and no more than ``most`` are found.
    """
    walk = _Walk({} if passed is None else passed, most)
    walk.visit(value, name, depth)
    walk.visit_classes()
    return iter(walk.found)


class _Walk:
    """What is found from one object, and the names that the functions among it read.

    Of a class only attributes that a function reads are visited. A function may be handed what another one holds, so
    that these are the names of all functions that are found, and classes are visited last.
    """

    def __init__(self, passed: dict[int, tuple[Any, frozenset[str]]], most: int | None) -> None:
        self.found: list[tuple[str, Any]] = []
        self._passed, self._most = passed, sys.maxsize if most is None else most
        self._own: list[Any] = []
        self._named = set(_CALLED)
        # By class, and whether it is a value itself: where it was met first, and at which depth.
        self._classes: dict[tuple[type, bool], tuple[str, int]] = {}

    def visit(self, value: Any, name: str, depth: int) -> None:
        """Go through an object, and through all that it holds itself."""
        if len(self.found) >= self._most:
            return
        self.found.append((name, value))
        # A logger caches its level in an attribute.
        if isinstance(value, types.ModuleType | logging.Logger) or (
            isinstance(value, _LEAVES) and not _is_marked(value)
        ):
            return
        if depth == 0 or (isinstance(value, type) and not is_the_users(value.__module__)) or id(value) in self._passed:
            return
        self._passed[id(value)] = value, frozenset()
        self._own.append(value)
        self._named |= _read(value)
        if isinstance(value, type):
            # The variable of that name is what ``super()`` reads, which makes no object.
            self._meet(value, not name.endswith("__class__"), name, depth)
        for path, owned in value.named_modules() if isinstance(value, torch.nn.Module) else [("", value)]:
            self._meet(type(owned), False, _joined(name, path), depth)
        for inner, child in () if isinstance(value, type) else children(value):
            self.visit(child, _joined(name, inner), depth - 1)

    def _meet(self, owner: type, is_value: bool, name: str, depth: int) -> None:
        key = owner, is_value
        if users_bases(owner.__mro__) and (key not in self._classes or self._classes[key][1] < depth):
            self._classes[key] = name, depth

    def visit_classes(self) -> None:
        """Go through the attributes of classes that are read by what is found, until nothing more is."""
        visited: dict[tuple[type, bool], frozenset[str]] = {}
        is_open = True
        while is_open:
            named, is_open = frozenset(self._named), False
            # What a class leads to by its own name is called by it.
            for key, (name, depth) in sorted(self._classes.items(), key=lambda item: not item[0][1]):
                if visited.get(key) == named:
                    continue
                is_open = True
                before, visited[key] = visited.get(key, frozenset()), named
                for inner, entry in of_class(*key, named - before, is_first=not before):
                    self.visit(entry, _joined(name, inner), depth - 1)
        for value in self._own:
            self._passed[id(value)] = value, frozenset(self._named)


def _joined(name: str, inner: str) -> str:
    return f"{name}.{inner}" if name and inner else name or inner


def _read(value: Any) -> frozenset[str]:
    """The attributes that a function of the user's reads of whatever it is given."""
    if type(value) is types.FunctionType:
        return attribute_names(value.__code__) if is_users_code(value) else frozenset()
    if isinstance(value, operator.attrgetter | operator.methodcaller):
        return frozenset(".".join([word for word in value.__reduce__()[1] if isinstance(word, str)]).split("."))
    return frozenset()


def of_class(owner: type, is_value: bool, named: frozenset[str], *, is_first: bool) -> Iterator[tuple[str, Any]]:
    """What a class and those above it have under these names, and what is called by no name, which is asked for first.

    An object of a class that is a value itself may be made.
    """
    for base in users_bases(owner.__mro__):
        held = vars(base)
        called = [key for key in held if is_first and _is_called(key, held[key], is_value)]
        yield from ((key, function_of(held[key], _OF_CLASSES)) for key in sorted({*called, *(named & held.keys())}))


def _is_called(name: str, value: Any, is_value: bool) -> bool:
    """Whether an operator or a statement of Python's calls a function of a class."""
    if not name.startswith("__") or name in _UNCALLED or (name in _OF_MAKING and not is_value):
        return False
    return isinstance(function_of(value, _OF_CLASSES), types.FunctionType)


@functools.lru_cache(maxsize=1024)
def users_bases(order: tuple[type, ...]) -> list[type]:
    """Of the classes that an attribute is looked up in, those of the user, the last first."""
    return [base for base in reversed(order) if is_the_users(base.__module__)]


_OF_CLASSES: dict[type, str] = {
    staticmethod: "__func__",
    classmethod: "__func__",
    property: "fget",
    functools.cached_property: "func",
}
_WRAPPERS: dict[type, str] = {
    **_OF_CLASSES,
    types.MethodType: "__func__",
    functools.partial: "func",
    functools.partialmethod: "func",
}


def function_of(value: Any, wrappers: dict[type, str] = _WRAPPERS) -> Any:
    """The function that a method, a property or a partial function calls; other values as they are."""
    for kind, attribute in wrappers.items():
        if isinstance(value, kind):
            return function_of(getattr(value, attribute), wrappers)
    return value


def is_users_code(value: Any) -> bool:
    """Whether a value is a Python function of the user's."""
    return isinstance(value, types.FunctionType) and is_the_users(value.__module__)


def _is_marked(value: Any) -> bool:
    """Whether a tensor, number or string has attributes of its own, which a user has set."""
    kind = type(value)
    if isinstance(value, Tensor):
        return kind in (Tensor, torch.nn.Parameter) and any([not key.startswith(_NOTES) for key in vars(value)])
    return is_the_users(kind.__module__) and bool(objects.attributes_of(value))


def holds_objects(value: Any) -> bool:
    """Whether a value is an array of NumPy's with objects in it."""
    return isinstance(value, np.ndarray) and bool(value.dtype.hasobject)


class ByMemory(dict[Any, Any]):
    """What belongs to objects, under their identities or addresses in this process; they are kept elsewhere, too."""


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and objects that an object holds itself."""
    if isinstance(value, ByMemory):
        return
    if isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, types.MethodType):
        yield "", value.__func__
        yield getattr(value.__self__, "_get_name", lambda: "self")(), value.__self__
    elif isinstance(value, functools.partial | functools.partialmethod):
        yield "", value.func
        yield from ((str(i), argument) for i, argument in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, torch.nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
        for path, module in value.named_modules():
            for key, attribute in vars(module).items():
                if key not in _OF_EVERY_MODULE:
                    yield f"{path}.{key}" if path else key, attribute
            yield from ((f"{path}.hook {i}" if path else f"hook {i}", hook) for i, hook in enumerate(hooks_of(module)))
    elif isinstance(value, contextvars.ContextVar):
        yield value.name, value.get(None)
    else:
        yield from _entries(value)
        if type(value) not in HOLDERS:
            # Some objects, as weak proxies, answer for others.
            held = list(getattr(value, "__dict__", {}).items())
            yield from [pair for pair in held if not (isinstance(pair[0], str) and pair[0].startswith(_NOTES))]
            yield from objects.slots_of(value).items()


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | types.MappingProxyType):
        yield from ((str(key), entry) for key, entry in list(itertools.islice(value.items(), ENTRIES)))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(i), entry) for i, entry in enumerate(itertools.islice(value, ENTRIES)))
    elif holds_objects(value):
        yield from ((str(i), entry) for i, entry in enumerate(itertools.islice(value.flat, ENTRIES)))


def hooks_of(module: torch.nn.Module) -> list[Any]:
    """The user's hooks that an evaluation of a module and its derivatives call."""
    hooks = [hook for table in HOOKS for hook in vars(module).get(table, {}).values()]
    return [hook for hook in hooks if is_users_code(function_of(hook)) or is_the_users(type(hook).__module__)]


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a Python function reads: its closure, its defaults and the globals that its code names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            yield name, cell.cell_contents
    yield from ((str(i), default) for i, default in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    if is_users_code(function):
        yield from attributes_of_function(function).items()
        for name in sorted(global_names(function.__code__)):
            if name in function.__globals__:
                yield name, function.__globals__[name]
        attributes = attribute_names(function.__code__)
        for name, module in opened(named_modules(function), attributes):
            yield from _settings(module, name, attributes)


def attributes_of_function(function: types.FunctionType) -> dict[str, Any]:
    """What a user has set on a function; what it decorates is found in its closure."""
    return {name: value for name, value in vars(function).items() if name != "__wrapped__"}


def named_modules(function: types.FunctionType) -> list[tuple[str, types.ModuleType]]:
    """The modules that code names: as a global, where it imports them, and in its closure those of libraries."""
    code, space = function.__code__, function.__globals__
    named: list[tuple[str, Any]] = [(name, space.get(name)) for name in sorted(global_names(code))]
    # An import that has not run yet has no module.
    named += [(name, sys.modules.get(name)) for name in imported(code, space.get("__package__"))]
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            held = cell.cell_contents
            named += [(name, held)] if isinstance(held, types.ModuleType) and not is_the_users(held.__name__) else []
    return [(name, it) for name, it in named if isinstance(it, types.ModuleType)]


def opened(
    named: Iterable[tuple[str, types.ModuleType]], attributes: Collection[str]
) -> list[tuple[str, types.ModuleType]]:
    """These modules, and those of libraries that attributes of these names lead to, each once."""
    found = {id(module): (name, module) for name, module in named}
    left = list(found.values())
    for name, module in left:
        held = vars(module)
        for key in attributes:
            inner = held.get(key)
            if isinstance(inner, types.ModuleType) and id(inner) not in found and not is_the_users(inner.__name__):
                found[id(inner)] = f"{name}.{key}", inner
                left.append(found[id(inner)])
    return left


def _settings(module: types.ModuleType, name: str, attributes: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """What code that names a module may read of it; of a library's module, what the user may have put there."""
    is_library = not is_the_users(module.__name__)
    for key in sorted(attributes & vars(module).keys()):
        value = vars(module)[key]
        if not is_library or _may_be_given(value):
            yield f"{name}.{key}", value


def _may_be_given(value: Any) -> bool:
    """Whether a value that a module of a library holds may be the user's: data, or what the user's code made."""
    if isinstance(value, type):
        return is_the_users(value.__module__)
    return _is_data(value) or is_users_code(function_of(value))


def _is_data(value: Any) -> bool:
    kind = type(value)
    return kind in _DATA or isinstance(value, Tensor | torch.nn.Module | np.ndarray) or is_the_users(kind.__module__)


def data_of_class(owner: type, named: frozenset[str]) -> dict[str, Any]:
    """What a class that is a value itself, as one of settings, has under these names beside its functions."""
    bases = [vars(base) for base in users_bases(owner.__mro__)]
    return {key: base[key] for base in bases for key in sorted(named & base.keys()) if _is_data(base[key])}


def is_the_users(module: str | None) -> bool:
    """Whether a module of Python code, by its name, is none of a library that functions are made of."""
    return not objects.is_library(module)
