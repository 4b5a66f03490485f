"""What a function reaches beside its arguments, and the tensors of a point.

Things are found where Python keeps them: closures, globals, defaults, bound objects, modules and containers.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from hesse._autograd.arguments import Point
from hesse._base import trees

_DEPTH = 6
_ENTRIES = 1_000
_LIBRARIES = ("torch", "hesse", "numpy", "scipy", "math", "builtins")
# What every module has, hooks and tables of its parts; the parts themselves are found by their names.
_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module())) - {"training"}

Kind = TypeVar("Kind")


def same(now: Tensor, then: Tensor) -> bool:
    """Whether two tensors hold the same numbers."""
    if now.layout != torch.strided:
        now, then = now.to_dense(), then.to_dense()
    # A NaN that stays a NaN is no change.
    return torch.equal(now, then) or bool(((now == then) | ((now != now) & (then != then))).all())


def tensors_of(func: Callable[..., Any], inputs: Any, point: Point) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a point: its variables, other arguments, and what the function captures."""
    arguments, spec = trees.flatten(inputs)
    for paths, tensors in ((point.spec.paths, point.leaves), (spec.paths, arguments)):
        for path, tensor in zip(paths, tensors, strict=True):
            if isinstance(tensor, Tensor):
                yield f"The input {trees.path_name(path) or 'tensor'}", tensor
    yield from captured(func)


def captured(func: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors that ``func`` reaches beside its arguments."""
    for name, tensor in reached(func, Tensor):
        yield f"The captured tensor {name!r}", tensor


def reached(func: Callable[..., Any], kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """Names and objects of a kind that ``func`` reaches beside its arguments; one may come more than once."""
    return ((name, value) for name, value in reach(func) if isinstance(value, kind))


def reach(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and objects of every kind that ``value`` reaches, itself included; its own name is ``name``."""
    yield from _reach(value, name, set(), _DEPTH, _CALLED)


def _reach(value: Any, name: str, seen: set[int], depth: int, named: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """``named`` are the attributes that the code on the way here names."""
    yield name, value
    if isinstance(value, Tensor | type | types.ModuleType | str | bytes | int | float):
        return
    if depth == 0 or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        named |= _attribute_names(value.__code__)
    of_class = _read_of_class(type(value), named)
    named = named.union(*[_attribute_names(entry.__code__) for entry in of_class.values() if _is_function(entry)])
    for inner, child in (*of_class.items(), *_children(value)):
        yield from _reach(child, f"{name}.{inner}" if name and inner else name or inner, seen, depth - 1, named)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.FunctionType):
        yield from _variables(value)
    elif isinstance(value, types.MethodType):
        yield "", value.__func__
        yield getattr(value.__self__, "_get_name", lambda: "self")(), value.__self__
    elif isinstance(value, functools.partial):
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
    elif isinstance(value, dict):
        yield from ((str(key), entry) for key, entry in list(itertools.islice(value.items(), _ENTRIES)))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(i), entry) for i, entry in enumerate(itertools.islice(value, _ENTRIES)))
    else:
        yield from list(getattr(value, "__dict__", {}).items())
        yield from (
            (slot, getattr(value, slot)) for slot in getattr(type(value), "__slots__", ()) if hasattr(value, slot)
        )


def _variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a Python function reads: its closure, its defaults and the globals that its code names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is not filled yet
            yield name, cell.cell_contents
    yield from ((str(i), default) for i, default in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    if _is_the_users(function.__module__):
        for name in sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                value = function.__globals__[name]
                yield name, value
                if isinstance(value, types.ModuleType) and _is_the_users(value.__name__):
                    yield from _settings(value, name, _attribute_names(function.__code__))


def _settings(module: types.ModuleType, name: str, attributes: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """What code that names a module may read of it."""
    return ((f"{name}.{key}", vars(module)[key]) for key in sorted(attributes) if key in vars(module))


def _is_the_users(module: str | None) -> bool:
    return (module or "").split(".")[0] not in _LIBRARIES


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> frozenset[str]:
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"}
    return frozenset(names.union(*[_global_names(inner) for inner in _inner(code)]))


@functools.lru_cache(maxsize=1024)
def _attribute_names(code: types.CodeType) -> frozenset[str]:
    return frozenset(set(code.co_names).union(*[_attribute_names(inner) for inner in _inner(code)]))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
