"""What a captured program depends on beside its variables, read anew at each point.

Tensors are inputs of the program. Plain values are parts of it, as tracing bakes them in, so a program serves
only where they are what they were; so are the settings of PyTorch that change what an operation does.
"""

from __future__ import annotations

import array
import ctypes
import enum
import hashlib
import itertools
import operator
import types
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hesse._autograd import objects
from hesse._autograd.captured import HOLDERS, is_the_users, reach
from hesse._base import trees
from hesse._base.precision import any_autocast

Plain = tuple[str, str, Any]
"""Name, kind and value of something that is no tensor, so that equal values are equal parts of a program."""


Layout = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device, bool, type]
"""Shape, strides, dtype, device, whether gradients are required, and type."""


def layout(tensor: Tensor) -> Layout:
    """All that a compiled program takes for granted about a tensor that it is given."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad, type(tensor)


class Sorted:
    """What a walk has found, sorted once for all points at which it finds the same.

    Attributes:
        tensors: by name.
        fixed: plain values of what cannot change while a walk finds the same.
    """

    def __init__(self, found: Sequence[tuple[str, Any]]) -> None:
        self.found = found
        self.tensors = {name: value for name, value in found if isinstance(value, Tensor)}
        fixed = [pair for pair in found if not isinstance(pair[1], _CHANGING)]
        self.fixed: tuple[Any, ...] = (*[plain(*pair) for pair in fixed], ("what has several names", "", _twice(fixed)))
        self._arrays = [pair for pair in found if isinstance(pair[1], _ARRAYS)]

    def changing(self) -> tuple[Plain, ...]:
        """Of everything else, as it is now; a lazy parameter has nothing yet."""
        if not (self.tensors or self._arrays):
            return ()
        changing = [
            (name, "tensor", (tensor.shape, tensor.dtype, tensor.requires_grad))
            for name, tensor in self.tensors.items()
            if not torch.nn.parameter.is_lazy(tensor)
        ]
        return (*changing, *[plain(*pair) for pair in self._arrays])


_ARRAYS: tuple[Any, ...] = (
    *(np.ndarray, bytearray, array.array, memoryview),
    *(ctypes.Array, ctypes.Structure, ctypes._SimpleCData),
)
_CHANGING = (Tensor, *_ARRAYS)
# Of these, equal ones may be the same object or not.
_VALUES = bool | int | float | complex | str | bytes | None | torch.dtype | torch.device | torch.Size | np.generic


def _twice(found: Sequence[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    """The further names of objects that have several, each with the first one."""
    first: dict[int, str] = {}
    names = [(name, first.setdefault(id(value), name)) for name, value in found if not isinstance(value, _VALUES)]
    return tuple([pair for pair in names if pair[0] != pair[1]])


class Surroundings:
    """Everything found at one point.

    Args:
        reads: what a function reads beside the arguments.
        arguments: what it is called with.
        variables: those of the arguments that a program takes for themselves.
        beside: what was found elsewhere, and belongs to it.

    Attributes:
        tensors: by name; the variables are left out.
        plain: settings of PyTorch; then names and values of everything else, the shapes of the tensors, which a
            function may read without the tensors' values, and where the variables stand.
    """

    def __init__(
        self, reads: Sorted, arguments: Any, variables: Sequence[Tensor], beside: Surroundings | None = None
    ) -> None:
        self.tensors = reads.tensors
        self.plain: tuple[Any, ...] = (settings(), reads.fixed, reads.changing())
        if beside is not None:
            self.tensors = {**beside.tensors, **self.tensors}
            self.plain += beside.plain[1:]
        leaves, spec = trees.flatten(arguments)
        order = spec.paths
        others = spec.beside
        # As a rule all arguments are variables.
        if len(leaves) != len(variables) or not all(map(operator.is_, leaves, variables)):
            own = {id(variable) for variable in variables}
            pairs = list(zip(spec.paths, leaves, strict=True))
            order = tuple([path for path, leaf in pairs if id(leaf) in own])
            others = (*others, *[(path, leaf) for path, leaf in pairs if id(leaf) not in own])
        for path, value in others:
            found = Sorted(list(reach(value, f"the argument {trees.path_name(path)}")))
            self.tensors = {**self.tensors, **found.tensors}
            self.plain += found.fixed, found.changing()
        # Equal dicts may hold their entries in different orders.
        self.plain = (*self.plain, (("the order of the inputs", "paths", order), ("the inputs", "kinds", spec.kinds)))

    def names_by_tensor(self) -> dict[int, tuple[str, ...]]:
        """All names of each tensor, by its identity."""
        names: dict[int, tuple[str, ...]] = {}
        for name, tensor in self.tensors.items():
            names[id(tensor)] = (*names.get(id(tensor), ()), name)
        return names

    def the_one(self, names: Sequence[str]) -> Tensor | None:
        """The tensor that all these names lead to, or None if they lead to none or to several."""
        first = self.tensors.get(names[0])
        return first if all([self.tensors.get(name) is first for name in names[1:]]) else None

    def difference(self, earlier: tuple[Any, ...]) -> str | None:
        """The name of a plain value that is not what it was, if there is one."""
        changed = set(_named(self.plain)).symmetric_difference(_named(earlier))
        return min([name for name, *_ in changed], default=None)


def _named(parts: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    return itertools.chain(zip(_SETTINGS, parts[0], strict=True), *parts[1:])


def read_now(func: Any) -> list[tuple[str, Any]]:
    """What a function reads, in a form that differs where it has replaced some of it."""

    def now(value: Any) -> Any:
        if isinstance(value, Tensor):
            return id(value), id(value.grad) if value.is_leaf else None
        return token(value)

    return [(name, now(value)) for name, value in reach(func)]


def plain(name: str, value: Any) -> Plain:
    """What a program has of an object as a part of it."""
    return name, _kind(value), token(value)


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def token(value: Any) -> Any:
    """Something hashable that is equal where the value has the same effect on a function."""
    if isinstance(value, bool | int | str | bytes | None | torch.dtype | torch.device | enum.Enum):
        return value
    if isinstance(value, float | complex):
        return repr(value)  # tells -0.0 from 0.0, and a NaN equals itself
    if isinstance(value, types.FunctionType):
        return value.__code__
    if isinstance(value, torch.nn.Module):
        return _tree(value)
    if isinstance(value, np.ndarray | np.generic):
        numbers = np.ascontiguousarray(value)
        # Of an array of objects, these are found by themselves.
        held = b"" if numbers.dtype.hasobject else hashlib.blake2b(numbers.view(np.uint8).data).digest()
        return numbers.shape, numbers.dtype.str, held
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return _Same(value)
    if isinstance(value, _ARRAYS):
        view = memoryview(value)
        return view.format, view.tobytes()
    return _itself(value)


def _tree(module: torch.nn.Module) -> tuple[Any, ...]:
    """The classes of all modules in one, and which of their modules and tensors are the same."""
    places = {id(None): -1}
    tree = []
    for member in module.modules():
        tables = [member._parameters, member._buffers, member._modules]
        # TorchScript's are made anew at each look.
        held = [pair for table in tables if isinstance(table, dict) for pair in table.items()]
        tree.append((_kind(member), *[(key, places.setdefault(id(part), len(places))) for key, part in held]))
    return tuple(tree)


def _itself(value: Any) -> Any:
    """An object of a library that holds nothing which is found by itself, as a slice, a decimal number or a mark."""
    if isinstance(value, slice):
        return repr(value)
    # What a weak reference leads to is not the function's, and may go at any time.
    is_weak = isinstance(value, weakref.ReferenceType)
    is_read = is_weak or isinstance(value, HOLDERS) or hasattr(value, "__dict__") or objects.has_slots(value)
    if is_read or is_the_users(type(value).__module__):
        return ()
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


class _Same(NamedTuple):
    """A value that is equal to itself only, and kept alive so that no other takes its place in memory."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


_SETTINGS = (
    "the default dtype",
    "the default device",
    "deterministic algorithms",
    "the precision of matrix products",
    "autocast on cpu",
    "autocast on cuda",
)


def settings() -> tuple[Any, ...]:
    """Settings of this thread and process that change what the operations of a function do."""
    is_cast = any_autocast()
    return (
        torch.get_default_dtype(),
        # The default is a mode, and without one there is nothing to look for.
        str(torch.get_default_device()) if torch._C._len_torch_function_stack() else "cpu",
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        is_cast and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        is_cast and torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
    )
