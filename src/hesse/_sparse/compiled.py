"""``compiled``: a loop in machine code, by numba; ``in_threads``: the same by all threads that PyTorch takes."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

# A thread takes about as long to wake as a loop takes for so many steps.
_STEPS = 100_000


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
        found: Callable[..., Any] = numba.njit(cache=True, nogil=True)(loop)
    except RuntimeError:
        # No place for the kept code can be written to.
        found = numba.njit(nogil=True)(loop)
    return found


def in_threads(loop: Callable[..., Any], count: int, steps: int, *arguments: Any) -> list[Any]:
    """What ``loop(begin, end, *arguments)`` returns for consecutive parts of ``range(count)``, each in a thread.

    All parts together take ``steps`` steps.
    """
    parts = max(1, min(torch.get_num_threads(), steps // _STEPS))
    if parts == 1:
        return [compiled(loop)(0, count, *arguments)]
    first, *others = itertools.pairwise([count * part // parts for part in range(parts + 1)])
    run = compiled(loop)
    there = [_pool(parts).submit(run, *bound, *arguments) for bound in others]
    return [run(*first, *arguments), *[part.result() for part in there]]


@functools.cache
def _pool(parts: int) -> ThreadPoolExecutor:
    """Threads that stay, since they take as long to start as a loop over many entries."""
    return ThreadPoolExecutor(parts - 1)


# A forked process has no threads but its own.
os.register_at_fork(after_in_child=_pool.cache_clear)
