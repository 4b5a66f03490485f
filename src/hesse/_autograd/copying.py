"""How each kind of object is copied: made empty first, so that others can refer to it, and then filled."""

from __future__ import annotations

import contextlib
import copy
import functools
import operator
import types
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from hesse._autograd.captured import is_the_users
from hesse._autograd.code_names import global_names, stored_globals
from hesse._autograd.objects import (
    CACHE,
    HOOKS,
    MUTABLE,
    NAMESPACES,
    attributes_of,
    cached_methods,
    class_containers,
    entries_of,
    kind_of,
    names_of_slots,
    own_attributes,
    set_attribute,
    table_of,
)

Copies = list[Any]
"""The copies of all nodes, by place."""

Build = Callable[[Copies, Sequence[Tensor | None]], Any]
"""Makes what stands in the place of a value, from the copies and the tensors that they are given."""

Entry = Callable[[Any], Build | None]
"""How to make what stands in the place of a value; None where that is the value itself."""


Methods = Callable[[Any], list[tuple[str, Build]]]
"""By a class, those of its methods that a copy has its own of: a global that they read is another there."""


class Plan(Protocol):
    """How one object is copied."""

    def allocate(self, copies: Copies) -> Any:
        """The copy, without what is in it; ``copies`` are those of the nodes before."""
        ...

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Put everything into the copy."""
        ...


class ModulePlan:
    """Of a module: its tables of parameters, buffers and modules, its hooks, and its attributes."""

    def __init__(self, module: nn.Module, entry: Entry, tensors: dict[int, int], methods: Methods) -> None:
        self._kind = kind_of(module)
        attributes = attributes_of(module)
        # Each table, and the places of those of its tensors that are given.
        self._tables: list[tuple[str, Any, list[tuple[str, int]]]] = []
        for name in ("_parameters", "_buffers"):
            table = attributes[name]
            places = [(key, tensors[id(tensor)]) for key, tensor in table.items() if id(tensor) in tensors]
            self._tables.append((name, copy.copy(table), places))
        self._modules = copy.copy(attributes["_modules"])
        self._children = _made_anew(self._modules.items(), entry)
        # A hook that an evaluation registers must not come into the original's table.
        self._empty = [
            (key, type(attributes[key])) for key in sorted(HOOKS) if key in attributes and not attributes[key]
        ]
        self._has_slots = bool(names_of_slots(self._kind))
        template = dict(own_attributes(attributes)) | class_containers(module)
        if template.get("_compiled_call_impl") is not None:
            # A compiled module runs eagerly here.
            template["_compiled_call_impl"] = None
        self._entries = _made_anew(template.items(), entry)
        made = dict(self._entries)
        self._caches = [(key, value) for key, value in template.items() if isinstance(value, CACHE) and key not in made]
        self._cached_methods = cached_methods(self._kind)
        self._methods = [(name, build) for name, build in methods(self._kind) if name not in template]
        self._template = template

    def allocate(self, copies: Copies) -> Any:
        """A module without attributes."""
        return object.__new__(self._kind)

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Its attributes, all at once."""
        attributes = self._template.copy()
        for key, kind in self._empty:
            attributes[key] = kind()
        for key, table, places in self._tables:
            attributes[key] = table = table.copy()
            for name, place in places:
                table[name] = tensors[place]
        attributes["_modules"] = modules = self._modules.copy()
        for name, build in self._children:
            modules[name] = build(copies, tensors)
        for name, build in self._entries:
            attributes[name] = build(copies, tensors)
        for name, cached in self._caches:
            attributes[name] = _without_memory(cached, cached.__wrapped__)
        for name, build in self._methods:
            attributes[name] = types.MethodType(build(copies, tensors), fresh)
        for name, cached in self._cached_methods:
            # Else the class would keep every copy, as the first argument of a call.
            attributes[name] = _without_memory(cached, types.MethodType(cached.__wrapped__, fresh))
        if self._has_slots:
            _put(fresh, attributes)
        else:
            set_attribute(fresh, "__dict__", attributes)


class ObjectPlan:
    """Of a plain object: its attributes."""

    def __init__(self, value: Any, entry: Entry) -> None:
        self._kind = kind_of(value)
        self._template = dict(attributes_of(value))
        self._entries = _made_anew(self._template.items(), entry)

    def allocate(self, copies: Copies) -> Any:
        """An object without attributes."""
        return self._kind() if self._kind in NAMESPACES else object.__new__(self._kind)

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Its attributes, all at once."""
        attributes = self._template.copy()
        for name, build in self._entries:
            attributes[name] = build(copies, tensors)
        _put(fresh, attributes)


class ContainerPlan:
    """Of a list, dict, set or deque: its entries. One that says that it cannot be copied is shared."""

    def __init__(self, container: Any, entry: Entry) -> None:
        self._template: Any = None
        self._original = container
        # Those of Python raise nothing; an exception that comes by other means is not theirs.
        with contextlib.nullcontext() if type(container) in MUTABLE else contextlib.suppress(Exception):
            self._template = copy.copy(container)
        self._base = _base(container)
        self._pairs: list[tuple[Build, Build]] | None = None
        if self._base is not dict and self._base is not set:
            self._entries = _made_anew(enumerate(container), entry)
            self.hashes_copies = False
            return
        items: dict[Any, Any] = dict.fromkeys(container) | (container if self._base is dict else {})
        self._entries = _made_anew(items.items(), entry)
        # Keys are seldom what is copied; where they are, the container is filled in its order.
        if any([entry(key) is not None for key in items]):
            self._pairs = [(_always(key, entry), _always(value, entry)) for key, value in items.items()]
        self.hashes_copies = self._pairs is not None

    def allocate(self, copies: Copies) -> Any:
        """A container of the same things."""
        return self._original if self._template is None else copy.copy(self._template)

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Those of its entries that are not the same."""
        if fresh is self._original:
            return
        if self._pairs is None:
            for key, build in self._entries:
                entry = build(copies, tensors)
                if entry is None and self._base is dict:
                    dict.__delitem__(fresh, key)
                else:
                    self._base.__setitem__(fresh, key, entry)
            return
        self._base.clear(fresh)
        for key, value in self._pairs:
            if self._base is set:
                set.add(fresh, key(copies, tensors))
            else:
                dict.__setitem__(fresh, key(copies, tensors), value(copies, tensors))


class Contents:
    """What a list, dict, set or deque holds, by identity."""

    def __init__(self, container: Any) -> None:
        self._base = _base(container)
        self._entries = list(container.items()) if self._base is dict else list(container)
        self._known = list(entries_of(container))

    def put_back(self, container: Any) -> None:
        """Into the container itself, where it holds anything else now."""
        now = list(entries_of(container))
        if len(now) == len(self._known) and all(map(operator.is_, now, self._known)):
            return
        self._base.clear(container)
        if self._base is dict or self._base is set:
            self._base.update(container, self._entries)
        else:
            self._base.extend(container, self._entries)


class FunctionPlan:
    """Of a function: its closure, defaults and globals."""

    def __init__(self, function: types.FunctionType, entry: Entry, places: dict[int, int]) -> None:
        self._function = function
        closure = closure_of(function)
        self._closure = [_always(closure[name], entry) if name in closure else None for name in _free(function)]
        # Those that other functions share.
        found = [places.get(id(cell), len(places)) for cell in function.__closure__ or ()]
        self._cells = [place if place < places[id(function)] else None for place in found]
        self._attributes = _made_anew(vars(function).items(), entry)
        self._defaults = _always(function.__defaults__, entry)
        self._keywords = _made_anew((function.__kwdefaults__ or {}).items(), entry)
        self._globals = _made_anew(globals_of(function).items(), entry)

    def allocate(self, copies: Copies) -> Any:
        """The same code, with globals of its own where some are not the same, and empty cells."""
        function = self._function
        read = {**function.__globals__} if self._globals else function.__globals__
        cells = tuple([types.CellType() if place is None else copies[place] for place in self._cells])
        fresh = types.FunctionType(function.__code__, read, function.__name__, None, cells)
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(fresh, name, getattr(function, name))
        return fresh

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """What it reads."""
        vars(fresh).update(vars(self._function))
        vars(fresh).update({name: build(copies, tensors) for name, build in self._attributes})
        for cell, place, content in zip(fresh.__closure__ or (), self._cells, self._closure, strict=True):
            if content is not None and place is None:
                cell.cell_contents = content(copies, tensors)
        fresh.__defaults__ = self._defaults(copies, tensors)
        fresh.__kwdefaults__ = self._function.__kwdefaults__ and dict(self._function.__kwdefaults__)
        for name, build in self._keywords:
            fresh.__kwdefaults__[name] = build(copies, tensors)
        for name, build in self._globals:
            fresh.__globals__[name] = build(copies, tensors)


class WeakPlan:
    """Of a weak dict or set."""

    def __init__(self, container: Any, build: Callable[[Any], Build]) -> None:
        self._kind = kind_of(container)
        items = dict.fromkeys(container) if isinstance(container, weakref.WeakSet) else dict(container)
        self._pairs = [(build(key), build(value)) for key, value in items.items()]
        self.hashes_copies = True

    def allocate(self, copies: Copies) -> Any:
        """An empty one."""
        return self._kind()

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Its entries."""
        for key, value in self._pairs:
            if isinstance(fresh, weakref.WeakSet):
                fresh.add(key(copies, tensors))
            else:
                fresh[key(copies, tensors)] = value(copies, tensors)


class CellPlan:
    """Of a variable of a surrounding function, which several functions may share."""

    def __init__(self, cell: types.CellType, entry: Entry) -> None:
        self._build: Build = _nothing
        with contextlib.suppress(ValueError):  # one that is not filled yet
            self._build = _always(cell.cell_contents, entry)

    def allocate(self, copies: Copies) -> Any:
        """An empty one."""
        return types.CellType()

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Its value."""
        if self._build is not _nothing:
            fresh.cell_contents = self._build(copies, tensors)


class CopyPlan:
    """Of something of Python's or NumPy's that holds nothing but numbers and letters, or where it is in a list."""

    def __init__(self, value: Any) -> None:
        self._original = copy.copy(value)

    def allocate(self, copies: Copies) -> Any:
        """A copy."""
        return copy.copy(self._original)

    def fill(self, fresh: Any, copies: Copies, tensors: Sequence[Tensor | None]) -> None:
        """Nothing is left to do."""


def _base(container: Any) -> Any:
    return next(base for base in MUTABLE if isinstance(container, base))


def immutable(value: Any, build: Callable[[Any], Build]) -> Build:
    """How to make a value that cannot change, and that leads to something that is copied."""
    if isinstance(value, types.MethodType):
        function, owner = build(value.__func__), build(value.__self__)
        return lambda copies, tensors: types.MethodType(function(copies, tensors), owner(copies, tensors))
    if isinstance(value, types.BuiltinMethodType):
        owner = build(value.__self__)
        return lambda copies, tensors: getattr(owner(copies, tensors), value.__name__)
    if isinstance(value, weakref.ref):
        referent = build(value())
        return lambda copies, tensors: weakref.ref(referent(copies, tensors))
    if isinstance(value, CACHE):
        wrapped = build(value.__wrapped__)
        return lambda copies, tensors: _without_memory(value, wrapped(copies, tensors))
    if isinstance(value, functools.partial):
        function, arguments = build(value.func), build(value.args)
        keywords = {name: build(argument) for name, argument in value.keywords.items()}
        return lambda copies, tensors: type(value)(
            function(copies, tensors),
            *arguments(copies, tensors),
            **{name: argument(copies, tensors) for name, argument in keywords.items()},
        )
    entries = [build(entry) for entry in value]
    # A named tuple's own constructor takes its entries one by one.
    base = tuple if isinstance(value, tuple) else frozenset
    attributes = {name: build(held) for name, held in (table_of(value) or {}).items()}

    def make(copies: Copies, tensors: Sequence[Tensor | None]) -> Any:
        fresh = base.__new__(type(value), [entry(copies, tensors) for entry in entries])
        for name, held in attributes.items():
            set_attribute(fresh, name, held(copies, tensors))
        return fresh

    return make


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """By name, the variables of surrounding functions that a function reads, where they are set."""
    found: dict[str, Any] = {}
    for name, cell in zip(_free(function), function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def defaults_of(function: types.FunctionType) -> list[Any]:
    """The values of arguments that are not given."""
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """By name, the globals that a user's function reads; none where it sets some, which must stay the module's."""
    code = function.__code__
    if not is_the_users(function.__module__) or stored_globals(code):
        return {}
    return {name: function.__globals__[name] for name in global_names(code) if name in function.__globals__}


def _free(function: types.FunctionType) -> tuple[str, ...]:
    return function.__code__.co_freevars


def _made_anew(items: Iterable[tuple[Any, Any]], entry: Entry) -> list[tuple[Any, Build]]:
    """Keys of the values that are not the same in a copy, and how those are made."""
    found = [(key, entry(value)) for key, value in items]
    return [(key, build) for key, build in found if build is not None]


def _nothing(copies: Copies, tensors: Sequence[Tensor | None]) -> Any:
    """What is in a variable that is not set yet."""


def _always(value: Any, entry: Entry) -> Build:
    return entry(value) or (lambda copies, tensors: value)


def _put(fresh: Any, attributes: dict[str, Any]) -> None:
    for name in names_of_slots(kind_of(fresh)):
        if name in attributes:
            set_attribute(fresh, name, attributes.pop(name))
    if isinstance(fresh, types.SimpleNamespace):
        # Its table cannot be replaced.
        fresh.__dict__.update(attributes)
    elif attributes or table_of(fresh) is not None:
        set_attribute(fresh, "__dict__", attributes)


def _without_memory(cached: Any, function: Any) -> Any:
    """A cached function that remembers nothing yet."""
    return functools.lru_cache(**cached.cache_parameters())(function)
