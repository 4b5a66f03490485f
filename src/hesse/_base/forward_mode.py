"""Forward-mode products by PyTorch, without its warning about itself."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def jvp(function: Callable[..., Any], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Any:
    """``torch.func.jvp``: ``function(*primals)`` and its Jacobian times ``tangents``."""
    _load_decompositions()
    return torch.func.jvp(function, primals, tangents)


def is_on() -> bool:
    """Whether forward mode is on, in some thread of the process."""
    level: int = torch.autograd.forward_ad._current_level
    return level >= 0


@functools.cache
def _load_decompositions() -> None:
    """PyTorch compiles them at its first product with the deprecated ``torch.jit.script``, and would warn the user."""
    with warnings.catch_warnings(), contextlib.suppress(AttributeError):
        warnings.filterwarnings("ignore", "`torch.jit.script` is")
        torch.autograd.forward_ad._maybe_load_decompositions()  # type: ignore[no-untyped-call]  # PyTorch's has no types
