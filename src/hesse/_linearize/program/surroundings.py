"""What a captured program depends on beside its variables, read anew at each point.

Tensors are inputs of the program. Plain values are parts of it, as tracing bakes them in, so a program serves
only where they are what they were; so are the settings of PyTorch that change what an operation does.
"""

from __future__ import annotations

import enum
import hashlib
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hesse._autograd.captured import reach
from hesse._base import trees

Plain = tuple[str, str, Any]
"""Name, kind and value of something that is no tensor, so that equal values are equal parts of a program."""


class Layout(NamedTuple):
    """All that a compiled program takes for granted about a tensor that it is given."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    kind: type

    @staticmethod
    def of(tensor: Tensor) -> Layout:
        return Layout(tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad, type(tensor))


class Surroundings:
    """Everything found at one point.

    Args:
        func: a function, or whatever else reaches all that is read beside the arguments.
        arguments: what it is called with.
        variables: those of the arguments that a program takes for themselves.
        beside: what was found elsewhere, and belongs to it.

    Attributes:
        tensors: by name; the variables are left out.
        plain: names and values of everything else, and the shapes of the tensors, which a function may read without
            the tensors' values.
    """

    def __init__(
        self, func: Any, arguments: Any, variables: Sequence[Tensor], beside: Surroundings | None = None
    ) -> None:
        self.tensors: dict[str, Tensor] = {} if beside is None else dict(beside.tensors)
        plain: list[Plain] = [] if beside is None else list(beside._found)
        own = {id(variable) for variable in variables}
        leaves, spec = trees.flatten(arguments)
        for path, leaf in zip(spec.paths, leaves, strict=True):
            if id(leaf) not in own:
                self._sort(reach(leaf, f"the argument {trees.path_name(path)}"), plain)
        self._sort(reach(func), plain)
        self._found: list[Plain] = plain
        self.plain = (*_settings(), *plain)

    def _sort(self, found: Any, plain: list[Plain]) -> None:
        for name, value in found:
            if isinstance(value, Tensor):
                self.tensors[name] = value
                if not torch.nn.parameter.is_lazy(value):
                    plain.append((name, "tensor", (value.shape, value.dtype, value.requires_grad)))
            else:
                plain.append((name, type(value).__qualname__, token(value)))

    def names_by_tensor(self) -> dict[int, tuple[str, ...]]:
        """All names of each tensor, by its identity."""
        names: dict[int, tuple[str, ...]] = {}
        for name, tensor in self.tensors.items():
            names[id(tensor)] = (*names.get(id(tensor), ()), name)
        return names

    def the_one(self, names: Sequence[str]) -> Tensor | None:
        """The tensor that all these names lead to, or None if they lead to none or to several."""
        found = {id(self.tensors.get(name)): self.tensors.get(name) for name in names}
        return next(iter(found.values())) if len(found) == 1 else None

    def difference(self, earlier: Sequence[Plain]) -> str | None:
        """The name of a plain value that is not what it was, if there is one."""
        changed = set(self.plain).symmetric_difference(earlier)
        return min(name for name, _, _ in changed) if changed else None


def token(value: Any) -> Any:
    """Something hashable that is equal where the value has the same effect on a function."""
    if isinstance(value, bool | int | str | bytes | None | torch.dtype | torch.device | enum.Enum):
        return value
    if isinstance(value, float | complex):
        return repr(value)  # tells -0.0 from 0.0, and a NaN equals itself
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            return id(value)
        return (array.shape, array.dtype.str, hashlib.blake2b(array.view(np.uint8).data).digest())
    if isinstance(value, types.FunctionType):
        return value.__code__
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


def _settings() -> list[Plain]:
    """Settings of this thread and process that change what the operations of a function do."""
    settings: dict[str, Any] = {
        "the default dtype": torch.get_default_dtype(),
        "the default device": str(torch.get_default_device()),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the precision of matrix products": torch.get_float32_matmul_precision(),
    }
    for kind in ("cpu", "cuda"):
        settings[f"autocast on {kind}"] = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else False
    return [(name, "setting", value) for name, value in settings.items()]
