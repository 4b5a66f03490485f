"""Copies of modules of TorchScript, which live in C++ and share their code."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Path = tuple[str, ...]


class ScriptCopy:
    """How a scripted or traced module is copied: each module in it by its own slots, and the tensors in these given.

    Args:
        module: what ``torch.jit.script`` or ``trace`` returns.
        tensors: the places of tensors that are given, by identity.
    """

    def __init__(self, module: torch.jit.ScriptModule, tensors: dict[int, int]) -> None:
        self._module = module._c
        self._places = [
            (path, name, tensors[id(tensor)])
            for path, part in _parts(module._c, ())
            for name, tensor in [*_slots(torch._C.ParameterDict, part), *_slots(torch._C.BufferDict, part)]
            if id(tensor) in tensors
        ]

    @staticmethod
    def parameters(module: torch.jit.ScriptModule) -> list[Tensor]:
        """All parameters, one for each name."""
        return [tensor for _, part in _parts(module._c, ()) for _, tensor in _slots(torch._C.ParameterDict, part)]

    @staticmethod
    def buffers(module: torch.jit.ScriptModule) -> list[Tensor]:
        """All buffers, one for each name."""
        return [tensor for _, part in _parts(module._c, ()) for _, tensor in _slots(torch._C.BufferDict, part)]

    def allocate(self, copies: list[Any]) -> Any:
        """A module of the same code, with slots of its own."""
        return torch.jit._recursive.wrap_cpp_module(_copy(self._module))  # type: ignore[no-untyped-call]  # no types there

    def fill(self, fresh: Any, copies: list[Any], tensors: Sequence[Tensor | None]) -> None:
        """Put the tensors into its slots."""
        for path, name, place in self._places:
            part = fresh._c
            for step in path:
                part = part.getattr(step)
            part.setattr(name, tensors[place])


def _copy(module: Any) -> Any:
    fresh = copy.copy(module)
    for name, part in _slots(torch._C.ModuleDict, module):
        fresh.setattr(name, _copy(part))
    return fresh


def _parts(module: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, module
    for name, part in _slots(torch._C.ModuleDict, module):
        yield from _parts(part, (*path, name))


def _slots(kind: Any, part: Any) -> list[tuple[str, Any]]:
    return list(kind(part).items())
