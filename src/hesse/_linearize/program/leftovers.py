"""What a capture leaves in a user's objects: a stand-in that a cache keeps would break the user's own calls."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from hesse._autograd import objects
from hesse._autograd.blueprint import Blueprint
from hesse._autograd.captured import holds_objects, is_the_users, is_users_code, reach
from hesse._autograd.code_names import stored_globals
from hesse._autograd.preserving import Held
from hesse._linearize.program.stand_ins import is_stand_in

_MISSING = object()


@contextlib.contextmanager
def removed(func: Any) -> Iterator[None]:
    """Within it ``func`` runs on stand-ins; afterwards nothing that it reaches holds one.

    What modules, containers and plain objects hold is what they held, and so are variables that functions set; caches
    of ``functools`` that hold stand-ins are emptied.
    """
    found = {id(value): value for _, value in reach(func)}
    modules = [value for value in found.values() if isinstance(value, torch.nn.Module)]
    kinds: set[Any] = {type(part) for module in modules for part in module.modules()}
    for kind in kinds:
        methods = [kind.forward, *[method for _, method in objects.cached_methods(kind)]]
        found |= {id(value): value for method in methods for _, value in reach(method)}
    others = [value for value in found.values() if isinstance(value, objects.MUTABLE) or objects.is_plain_object(value)]
    functions = [value for value in found.values() if is_users_code(value)]
    # Tensors, functions and thread-local data have attributes, too.
    attributes = [
        getattr(value, "__dict__", None) for value in found.values() if not isinstance(value, types.ModuleType)
    ]
    held = Held([*Blueprint(*modules).nodes, *others, *[table for table in attributes if isinstance(table, dict)]])
    classes = [*kinds, *[value if isinstance(value, type) else type(value) for value in found.values()]]
    put_back: list[Callable[[], object]] = [
        *map(_globals, functions),
        *map(_closure, functions),
        *map(_attributes, dict.fromkeys(classes)),
    ]
    put_back += [restore for value in found.values() for restore in _contents(value)]
    caches = [value for value in found.values() if isinstance(value, objects.CACHE)]
    misses = [cache.cache_info().misses for cache in caches]
    try:
        yield
    finally:
        held.restore()
        for restore in put_back:
            restore()
        for cache, before in zip(caches, misses, strict=True):
            if cache.cache_info().misses != before and _holds_stand_in(cache, 3):
                cache.cache_clear()


def _holds_stand_in(value: Any, depth: int) -> bool:
    if isinstance(value, torch.Tensor):
        return is_stand_in(value)
    if depth == 0 or isinstance(value, type | types.ModuleType | types.FunctionType):
        return False
    return any(_holds_stand_in(entry, depth - 1) for entry in gc.get_referents(value))


def _contents(value: Any) -> Iterator[Callable[[], object]]:
    """What puts back what is neither an entry of a container nor an attribute."""
    if isinstance(value, torch.Tensor) and value.is_leaf:
        yield functools.partial(_put_back_grad, value, value.grad)
    elif holds_objects(value):
        yield functools.partial(np.copyto, value, value.copy())
    elif isinstance(value, contextvars.ContextVar):
        with contextlib.suppress(LookupError):  # one without a value, which it would still have
            yield functools.partial(value.reset, value.set(value.get()))


def _put_back_grad(tensor: torch.Tensor, before: torch.Tensor | None) -> None:
    # Another thread may train meanwhile.
    if tensor.grad is not None and is_stand_in(tensor.grad):
        tensor.grad = before


def _globals(function: types.FunctionType) -> Callable[[], None]:
    """What puts the globals back that a function sets."""
    table = function.__globals__
    before = {name: table.get(name, _MISSING) for name in stored_globals(function.__code__)}

    def restore() -> None:
        for name, value in before.items():
            if value is _MISSING:
                table.pop(name, None)
            else:
                table[name] = value

    return restore


def _closure(function: types.FunctionType) -> Callable[[], None]:
    """What puts the variables of surrounding functions back."""
    cells = function.__closure__ or ()
    before = [_content(cell) for cell in cells]

    def restore() -> None:
        for cell, value in zip(cells, before, strict=True):
            if _content(cell) is not value:
                if value is _MISSING:
                    del cell.cell_contents
                else:
                    cell.cell_contents = value

    return restore


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _attributes(kind: type) -> Callable[[], None]:
    """What puts the attributes of a user's class back where they are stand-ins."""
    before = dict(vars(kind))

    def restore() -> None:
        for name, value in list(vars(kind).items()) if is_the_users(kind.__module__) else ():
            if _holds_stand_in(value, 1):
                if name in before:
                    setattr(kind, name, before[name])
                else:
                    delattr(kind, name)

    return restore
