"""Peak memory of every contestant on one workload, each in a fresh process."""

from collections.abc import Sequence
from typing import Any

from benchmarks.processes import run_fresh

# In seconds, and far more than any contestant takes: it is there for the one that hangs.
TIMEOUT = 900


def measure(workload: str, contestants: Sequence[str], quick: bool = False) -> dict[str, Any]:
    flags = ("--quick",) if quick else ()
    return {name: run_fresh("memory_one", workload, name, *flags, timeout=TIMEOUT) for name in contestants}
