"""Architectures as people train them, each a function that makes one."""

from __future__ import annotations

import types

from ..training import Make
from . import layers, libraries, state, structure


def _all(module: types.ModuleType) -> dict[str, Make]:
    """The functions a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    }


FROM_LIBRARIES = _all(libraries)

ARCHITECTURES: dict[str, Make] = {**_all(layers), **_all(state), **_all(structure), **FROM_LIBRARIES}
