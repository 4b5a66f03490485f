"""Objects by name that belong to a thread and, during a backward, to the threads that it runs on."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch

_PROBE = "hesse.probe"


def _with_a_reference(name: str, value: Any) -> None:
    # PyTorch 2.11 gives up a reference when the name is put again, and has taken none.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
    torch._C._stash_obj_in_tls(name, value)


def _takes_a_reference() -> bool:
    value = object()
    before = sys.getrefcount(value)
    _with_a_reference(_PROBE, value)
    return sys.getrefcount(value) - before == 2


put: Callable[[str, Any], None] = torch._C._stash_obj_in_tls if _takes_a_reference() else _with_a_reference
"""``put(name, value)``; what was put before is gone."""
