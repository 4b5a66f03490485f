"""What a capture leaves in a user's objects: a stand-in that a cache keeps would break the user's own calls."""

from __future__ import annotations

import contextlib
import gc
import types
from collections.abc import Iterator
from typing import Any

import torch

from hesse._autograd import objects
from hesse._autograd.blueprint import Blueprint
from hesse._autograd.captured import reach
from hesse._autograd.preserving import Held
from hesse._linearize.program.stand_ins import is_stand_in


@contextlib.contextmanager
def removed(func: Any) -> Iterator[None]:
    """Within it ``func`` runs on stand-ins; afterwards nothing that it reaches holds one.

    What modules, containers and plain objects hold is what they held, and caches of ``functools`` that hold stand-ins
    are emptied.
    """
    found = {id(value): value for _, value in reach(func)}
    modules = [value for value in found.values() if isinstance(value, torch.nn.Module)]
    kinds: set[Any] = {type(part) for module in modules for part in module.modules()}
    for kind in kinds:
        methods = [kind.forward, *[method for _, method in objects.cached_methods(kind)]]
        found |= {id(value): value for method in methods for _, value in reach(method)}
    others = [value for value in found.values() if isinstance(value, objects.MUTABLE) or objects.is_plain_object(value)]
    held = Held([*Blueprint(*modules).nodes, *others])
    caches = [value for value in found.values() if isinstance(value, objects.CACHE)]
    misses = [cache.cache_info().misses for cache in caches]
    try:
        yield
    finally:
        held.restore()
        for cache, before in zip(caches, misses, strict=True):
            if cache.cache_info().misses != before and _holds_stand_in(cache, 3):
                cache.cache_clear()


def _holds_stand_in(value: Any, depth: int) -> bool:
    if isinstance(value, torch.Tensor):
        return is_stand_in(value)
    if depth == 0 or isinstance(value, type | types.ModuleType | types.FunctionType):
        return False
    return any(_holds_stand_in(entry, depth - 1) for entry in gc.get_referents(value))
