"""How much memory a call takes at its peak, beside what is there before: read from the allocator's own events.

The process's resident set would not do: it moves by pages that were freed long ago, and cannot be read for one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch._C import _autograd, _profiler

T = TypeVar("T")


def during(call: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """What ``call`` returns, and the bytes that it takes on ``device`` at its peak.

    None for the bytes where somebody else is profiling: two at once is more than PyTorch can do.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        return result, torch.cuda.max_memory_allocated(device) - before
    # The newer profiler writes to standard error, and ends one of the user's without a word; this one keeps nothing of
    # the device and prints nothing. Neither has a public way to the allocator's events in their order.
    if _autograd._profiler_enabled():
        return call(), None
    # Its arguments have no names: shapes, memory, stacks, operations, modules.
    how = _profiler.ProfilerConfig(
        _profiler.ProfilerState.CPU, False, True, False, False, False, _profiler._ExperimentalConfig()
    )
    _autograd._enable_profiler_legacy(how)
    try:
        result = call()
    finally:
        records = _autograd._disable_profiler_legacy()
    now = most = 0
    # One list a thread; on a CPU a backward runs on the thread that calls it.
    for thread in records:
        for event in thread:
            # PyTorch's own declaration says that a kind is a number; it is a name.
            if str(event.kind()) == "memory_alloc":
                now += event.cpu_memory_usage()
                most = max(most, now)
    return result, most
