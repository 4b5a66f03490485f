"""What a saved program depends on, as a digest that another process finds too, or as not known.

Whatever is not known to have the same effect in another process raises ``Unknown``, and nothing is saved or loaded.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import logging
import sys
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hesse._autograd import captured, code_names, objects
from hesse._autograd.captured import ENTRIES, is_the_users, is_users_code, reach
from hesse._base import trees
from hesse._linearize.program.surroundings import layout

# Deeper than what is read at each point, since nothing may be cut off here.
_DEPTH = 12
_MOST_OBJECTS = 20_000

_PLAIN = bool | int | str | bytes | None | range | slice | type(...) | type(NotImplemented)
_OF_TORCH = torch.dtype | torch.device | torch.layout | torch.memory_format
# What they hold is found by itself.
_HOLDERS = {list, tuple, dict, torch.Size, types.MethodType, functools.partial, types.CellType, types.SimpleNamespace}
_DESCRIPTORS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_OF_EVERY_CLASS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "__abstractmethods__"),
    *("__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__", "_abc_impl"),
    *("__parameters__", "__orig_bases__", "__qualname__", "__type_params__"),
}
# What these read is found by no walk: functions of Python's own, and what libraries hold.
_READERS = frozenset({"open", "globals", "locals", "eval", "exec", "__import__"})
_HELD_READERS = frozenset({"environ", "environb", "getenv", "argv", "import_module", "_getframe", "currentframe"})
# Read attributes, of modules too.
_BY_NAME = frozenset({"getattr", "vars", "__dict__", "attrgetter"})


class Unknown(Exception):
    """Something has an effect that another process cannot compare."""


class Digest(NamedTuple):
    """A digest, and the functions of the user's whose code and variables are in it."""

    text: str
    functions: list[types.FunctionType]


def digest(roots: Iterable[tuple[str, Any]]) -> Digest:
    """Of all that these objects reach, under their names.

    Raises:
        Unknown: an object is of a kind that is not known, or was not looked through.
    """
    passed: dict[int, tuple[Any, frozenset[str]]] = {}
    found = [entry for name, root in roots for entry in reach(root, name, passed, _DEPTH, _MOST_OBJECTS)]
    if len(found) >= _MOST_OBJECTS:
        raise Unknown(f"more than {_MOST_OBJECTS} objects")
    functions = [value for _, value in found if is_users_code(value)]
    _require_known_modules([value for _, value in found if isinstance(value, types.ModuleType)], functions)
    total = hashlib.blake2b(digest_size=20)
    for name, value in found:
        try:
            total.update(f"{name}\0{type(value).__qualname__}\0{token(value)!r}\n".encode("utf-8", "surrogatepass"))
        except Unknown as unknown:
            raise Unknown(f"{name or 'the function'}: {unknown}") from None
        if id(value) not in passed and _holds_something(value):
            raise Unknown(f"{name} is too deep")
    return Digest(total.hexdigest(), functions)


def token(value: Any) -> Any:
    """What is the same in another process where the value, without what it holds, has the same effect."""
    kind = type(value)
    if isinstance(value, enum.Enum):
        return kind.__module__, kind.__qualname__, value.name, token(value.value)
    if (isinstance(value, _PLAIN) and kind.__module__ == "builtins") or isinstance(value, _OF_TORCH):
        return repr(value)
    if kind in (float, complex) or isinstance(value, np.dtype):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic) and kind.__module__ == "numpy":
        return _numbers(np.ascontiguousarray(value))
    if isinstance(value, weakref.ref) and isinstance(value(), Tensor):
        # As recurrent layers have them beside their parameters.
        value = value()
    if isinstance(value, Tensor):
        return _layout(value)
    if isinstance(value, captured.ByMemory):
        return list(value.values())
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, type):
        return _class(value)
    if isinstance(value, types.ModuleType | logging.Logger):
        return value.__name__ if isinstance(value, types.ModuleType) else value.name
    if isinstance(value, torch.nn.Module):
        return _modules(value)
    if isinstance(value, _DESCRIPTORS):
        return _class(value.__objclass__), value.__name__
    if isinstance(value, types.BuiltinFunctionType):
        return _builtin(value)
    if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return _operator(value)
    return _holder(value, kind)


def _holder(value: Any, kind: type) -> Any:
    """An object that is nothing but what it holds."""
    if isinstance(value, set | frozenset) and kind in (set, frozenset) and len(value) <= 1:
        return len(value)
    is_named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields") and not hasattr(value, "__dict__")
    if kind in _HOLDERS or is_named_tuple:
        if kind in (list, tuple, dict) and len(value) > ENTRIES:
            raise Unknown("a long container")
        keys = (
            [token(key) if not isinstance(key, tuple) else [*map(token, key)] for key in value] if kind is dict else 0
        )
        return kind.__module__, kind.__qualname__, keys
    if trees.is_treespec(value):
        return str(value)
    if isinstance(value, property | staticmethod | classmethod | functools.cached_property):
        return _function(captured.function_of(value))
    if kind.__module__.startswith("hesse.") or objects.is_plain_object(value):
        return kind.__module__, kind.__qualname__
    raise Unknown(f"an object of type {kind.__module__}.{kind.__qualname__}")


def code_token(code: types.CodeType) -> tuple[Any, ...]:
    """All that code does, without where it stands."""
    constants = [_constant(constant) for constant in code.co_consts]
    return (
        *(code.co_name, code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars),
        *(code.co_cellvars, code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        code.co_exceptiontable.hex(),
    )


def inner_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of all functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from inner_codes(constant)


def _constant(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return code_token(constant)
    if isinstance(constant, tuple):
        return [type(constant).__name__, *map(_constant, constant)]
    if isinstance(constant, frozenset):
        return [type(constant).__name__, *sorted(str(_constant(entry)) for entry in constant)]
    return type(constant).__name__, repr(constant)


def _numbers(array: Any) -> Any:
    if array.dtype.hasobject:
        raise Unknown("an array of objects")
    return array.shape, array.dtype.str, hashlib.blake2b(array.view(np.uint8).data).hexdigest()


def _layout(tensor: Tensor) -> Any:
    plain = type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer) and tensor.layout == torch.strided
    if not plain or torch.nn.parameter.is_lazy(tensor):
        raise Unknown("a tensor of a kind of its own")
    attributes = vars(tensor)
    if any(map(_holds_something, attributes.values())):
        raise Unknown("attributes of a tensor")
    held = [(name, token(entry)) for name, entry in attributes.items()]
    return *map(repr, layout(tensor)), tensor.is_conj(), tensor.is_neg(), tensor.is_inference(), held


def _function(function: Any) -> Any:
    if not isinstance(function, types.FunctionType):
        raise Unknown("a callable without code")
    place = function.__module__, function.__qualname__
    if not is_users_code(function):
        return *place, function.__code__.co_firstlineno
    if set(vars(function)) - {"__wrapped__"}:
        raise Unknown(f"attributes of the function {function.__qualname__}")
    return *place, code_token(function.__code__)


def _builtin(function: Any) -> Any:
    owner = function.__self__
    if is_the_users(function.__module__) and function.__module__ is not None:
        raise Unknown("a function of an extension module")
    if not (owner is None or isinstance(owner, types.ModuleType | type)):
        raise Unknown(f"a method of an object of type {type(owner).__qualname__}")
    return function.__module__, function.__qualname__, getattr(owner, "__name__", None)


def _operator(operator: Any) -> Any:
    name = str(operator)
    if name.partition(".")[0] not in ("aten", "prims"):
        raise Unknown(f"the operator {name}")
    return name


def _class(kind: type) -> Any:
    place = kind.__module__, kind.__qualname__
    if issubclass(kind, enum.Enum):
        return *place, [(name, token(member.value)) for name, member in kind.__members__.items()]
    entries = []
    for base in captured.users_bases(kind.__mro__):
        for name, entry in sorted(vars(base).items()):
            if name not in _OF_EVERY_CLASS:
                entries.append((base.__qualname__, name, _of_class(captured.function_of(entry))))
    above = [_class(type(kind))] if is_the_users(type(kind).__module__) else []
    return *place, [(base.__module__, base.__qualname__) for base in kind.__mro__], entries, above


def _of_class(entry: Any) -> Any:
    """What a class holds, whose objects are not looked through elsewhere."""
    if type(entry) in (list, tuple):
        return [type(entry).__name__, *map(_of_class, entry)]
    if type(entry) is dict:
        return [(token(key), _of_class(inner)) for key, inner in entry.items()]
    if isinstance(entry, types.MemberDescriptorType | types.GetSetDescriptorType):
        return entry.__name__
    plain = types.FunctionType | types.BuiltinFunctionType | float | complex | type
    if isinstance(entry, plain | _PLAIN | _OF_TORCH) and not (
        isinstance(entry, type) and is_the_users(entry.__module__)
    ):
        return token(entry)
    raise Unknown(f"a class that holds an object of type {type(entry).__qualname__}")


def _modules(module: torch.nn.Module) -> Any:
    if isinstance(module, torch.jit.ScriptModule):
        raise Unknown("a module of TorchScript")
    found = []
    for path, part in module.named_modules():
        if any(vars(part).get(name) for name in objects.HOOKS - {"_non_persistent_buffers_set"}):
            raise Unknown(f"hooks of the module {path or 'itself'}")
        found.append((path, type(part).__module__, type(part).__qualname__))
    return found


def _holds_something(value: Any) -> bool:
    leaves = Tensor | type | types.ModuleType | str | bytes | int | float | logging.Logger
    return not isinstance(value, leaves) and next(captured.children(value), None) is not None


def _require_known_modules(modules: list[types.ModuleType], functions: list[types.FunctionType]) -> None:
    """Raise where a function reads what was not looked at, or of a module of the user's more than its attributes."""
    users = {id(module) for module in modules if is_the_users(module.__name__)}
    known = set()
    for function in functions:
        attributes = code_names.attribute_names(function.__code__)
        names = code_names.global_names(function.__code__)
        if readers := (names & _READERS) | (attributes & _HELD_READERS):
            raise Unknown(f"what {min(readers)} reads")
        for name in code_names.imported(function.__code__, function.__globals__.get("__package__")):
            if is_the_users(name) and name not in sys.modules:
                raise Unknown(f"the module {name}, which is not imported yet")
        for name, module in captured.opened(captured.named_modules(function), attributes):
            known.add(id(module))
            if attributes & _BY_NAME and is_the_users(module.__name__):
                raise Unknown(f"attributes of the module {name}, by names that code does not hold")
            if any(id(vars(module).get(attribute)) in users for attribute in attributes):
                raise Unknown(f"a module that is read from the module {name}")
    for module in modules:
        if id(module) not in known:
            raise Unknown(f"the module {module.__name__} as a value")
