"""``compiled``: a loop in machine code, by numba."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any


@functools.cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """``loop`` in machine code, which numba keeps on disk for later processes.

    Raises:
        ImportError: numba is not installed.
    """
    try:
        numba = importlib.import_module("numba")
    except ImportError as error:
        raise ImportError(
            "A sparse matrix is colored by loops that numba compiles, and numba is not installed. Install"
            ' "hesse[sparse]".'
        ) from error
    try:
        found: Callable[..., Any] = numba.njit(cache=True)(loop)
    except RuntimeError:
        # No place for the kept code can be written to.
        found = numba.njit(loop)
    return found
