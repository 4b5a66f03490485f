"""How much memory is left, asked before a computation that needs twice as much as the one before it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available(device: torch.device) -> float:
    """Bytes that can still be taken on a device; infinity where nobody says."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_of_machine(), _of_group()) if device.type == "cpu" else math.inf


def _of_machine() -> float:
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB$", _MEMORY.read_text(), re.MULTILINE)
    except OSError:  # no Linux
        found = None
    return 1024.0 * int(found[1]) if found else math.inf


def _of_group() -> float:
    """What the container's limit leaves."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = (_GROUP / "memory.current").read_text()
    except OSError:  # no container, or an older kernel
        return math.inf
    return math.inf if limit == "max" else float(int(limit) - int(used))
