"""A point is a point: notice when a tensor that belongs to it has changed since.

Tensors are found where Python keeps them: the inputs, and what the function reaches through closures,
globals, defaults, bound objects, modules and containers. What is not found there is still safe, since
autograd refuses to use a saved tensor that was changed; it only cannot be named.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hesse import trees
from hesse.errors import StalePointError
from hesse.functional.arguments import Point

_DEPTH = 6
_ENTRIES = 1_000
# A tensor of at most this many elements is compared whole, a larger one by some along each dimension.
_WHOLE = 4096
_SAMPLES_A_DIMENSION = 8


class Guard:
    """Remembers the state of tensors when made; ``check`` raises one sentence that names the first that changed."""

    def __init__(self, owner: str, named: Iterable[tuple[str, Tensor]]) -> None:
        self._owner = owner
        self._states: list[_State] = []
        seen = set()
        for name, tensor in named:
            # A lazy module's parameters are no tensors yet.
            lazy = torch.nn.parameter.is_lazy(tensor)
            if id(tensor) not in seen and not lazy and not tensor.is_inference():
                seen.add(id(tensor))
                self._states.append(_state(name, tensor))

    def clear(self) -> None:
        """Forget the tensors, which are kept alive until then."""
        self._states = []

    def check(self) -> None:
        """Raise :class:`~hesse.errors.StalePointError` if a tensor has changed."""
        for state in self._states:
            if state.has_changed():
                raise StalePointError(
                    f"{state.name} has changed in place since this {self._owner} was made, so its point is gone."
                    " Call at(inputs) for the operator at the present values."
                )


class _State(NamedTuple):
    name: str
    tensor: Tensor
    version: int
    address: int | None
    sample: Tensor | None
    copy: Tensor | None

    def has_changed(self) -> bool:
        if self.tensor._version != self.version or _address(self.tensor) != self.address:
            return True
        # Writing through ``.data`` counts no version; a few elements give a change of the whole tensor away.
        return self.sample is not None and self.copy is not None and not _same(self.sample, self.copy)


def _state(name: str, tensor: Tensor) -> _State:
    sample = _sample(tensor)
    copy = None if sample is None else sample.clone()
    return _State(name, tensor, tensor._version, _address(tensor), sample, copy)


def _sample(tensor: Tensor) -> Tensor | None:
    """A view of a small tensor, or of a few elements along each dimension; None where views are not to be had."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return None
    if tensor.is_meta or tensor.is_nested or tensor.dtype == torch.complex32:
        return None
    if tensor.numel() <= _WHOLE:
        return tensor.detach()
    steps = [slice(None, None, max(1, size // _SAMPLES_A_DIMENSION)) for size in tensor.shape]
    return tensor.detach()[tuple(steps)]


def _same(now: Tensor, then: Tensor) -> bool:
    # A NaN that stays a NaN is no change.
    return torch.equal(now, then) or bool(((now == then) | ((now != now) & (then != then))).all())


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # sparse tensors and wrapper subclasses
        return None


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
    yield from _reach(func, "", set(), _DEPTH)


def _reach(value: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield f"The captured tensor {name!r}", value
        return
    if depth == 0 or id(value) in seen or isinstance(value, type | types.ModuleType | str | bytes | int | float):
        return
    seen.add(id(value))
    for inner, child in _children(value):
        yield from _reach(child, f"{name}.{inner}" if name and inner else name or inner, seen, depth - 1)


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
                if not key.startswith("_"):
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
    if (function.__module__ or "").split(".")[0] not in ("torch", "hesse"):
        for name in sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                yield name, function.__globals__[name]


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> frozenset[str]:
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return frozenset(names)
