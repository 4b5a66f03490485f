"""What the machine is, and what a command has used of it."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> dict[str, int]:
    """The process's peak resident memory in bytes, and the peak that PyTorch held on the device."""
    peaks = {}
    # There is no such module on Windows.
    try:
        import resource
    except ImportError:
        pass
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peaks["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peaks[str(device)] = torch.cuda.max_memory_allocated(device)
    return peaks
