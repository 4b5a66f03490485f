"""What the machine allows: how long a replay takes at least, by its products of matrices and by the memory it reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import hesse
from benchmarks.workloads.base import Workload
from hesse._base import onednn

SIDE = 2048
COPIED = 2**28
REPEATS = 5


def measure(workload: Workload, quick: bool) -> dict[str, float]:
    """Counted operations and bytes of a replay, and how fast this machine does either at its best.

    Operations are those of products of matrices and convolutions of the tape's replay. Bytes are what a replay cannot
    but touch: what the leaner engine keeps, the vector, and the product.
    """
    vector = workload.vector()
    with hesse.Hessian(workload.func, workload.inputs, engine="tape") as tape:
        with FlopCounterMode(display=False) as counter:
            tape @ vector
        kept = tape.explain().bytes_kept
    with (
        contextlib.suppress(hesse.CaptureError),
        hesse.Hessian(workload.func, workload.inputs, engine="compiled") as program,
    ):
        kept = min(kept, program.explain().bytes_kept)
    side, copied = (128, 2**20) if quick else (SIDE, COPIED)
    return {
        "flops": counter.get_total_flops(),
        "bytes": kept + 2 * sum(leaf.numel() * leaf.itemsize for leaf in workload.leaves),
        "flops_per_second": _peak(side),
        "bytes_per_second": _bandwidth(copied),
    }


def least_seconds(machine: dict[str, Any]) -> tuple[float, str]:
    """The longer of the two times, and which it is."""
    seconds = {
        "arithmetic": machine["flops"] / machine["flops_per_second"],
        "memory": machine["bytes"] / machine["bytes_per_second"],
    }
    limit = max(seconds, key=lambda name: seconds[name])
    return seconds[limit], limit


def _peak(side: int) -> float:
    a = torch.randn(side, side)
    ways: list[Callable[[], Any]] = [lambda: a @ a]
    if onednn.available:
        ways.append(lambda: onednn.product(a, a))
    return 2 * side**3 / min(_fastest(way) for way in ways)


def _bandwidth(size: int) -> float:
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    # Each byte is read and written.
    return 2 * size / _fastest(lambda: target.copy_(source))


def _fastest(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
