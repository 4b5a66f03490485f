"""What a captured program depends on beside its variables, read anew at each point.

Tensors are inputs of the program. Plain values are parts of it, as tracing bakes them in, so a program serves
only where they are what they were; so are the settings of PyTorch that change what an operation does.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import operator
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hesse._autograd.captured import reach
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
        self.fixed: tuple[Plain, ...] = tuple([plain(*pair) for pair in found if not isinstance(pair[1], _CHANGING)])
        self._arrays = [pair for pair in found if isinstance(pair[1], np.ndarray)]

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


_CHANGING = Tensor, np.ndarray


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
        # As a rule all arguments are variables.
        if len(leaves) != len(variables) or not all(map(operator.is_, leaves, variables)):
            own = {id(variable) for variable in variables}
            order = tuple([spec.paths[place] for place, leaf in enumerate(leaves) if id(leaf) in own])
            for place, leaf in enumerate(leaves):
                if id(leaf) not in own:
                    found = Sorted(list(reach(leaf, f"the argument {trees.path_name(spec.paths[place])}")))
                    self.tensors = {**self.tensors, **found.tensors}
                    self.plain += found.fixed, found.changing()
        # Equal dicts may hold their entries in different orders.
        self.plain = (*self.plain, (("the order of the inputs", "paths", order),))

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


def plain(name: str, value: Any) -> Plain:
    """What a program has of an object as a part of it."""
    return name, type(value).__qualname__, token(value)


def token(value: Any) -> Any:
    """Something hashable that is equal where the value has the same effect on a function."""
    if isinstance(value, bool | int | str | bytes | None | torch.dtype | torch.device | enum.Enum):
        return value
    if isinstance(value, float | complex):
        return repr(value)  # tells -0.0 from 0.0, and a NaN equals itself
    if isinstance(value, types.FunctionType):
        return value.__code__
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            return id(value)
        return (array.shape, array.dtype.str, hashlib.blake2b(array.view(np.uint8).data).digest())
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return _Same(value)
    return ()


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
