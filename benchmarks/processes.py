"""Runs a module of the benchmarks in a fresh process and reads the JSON on its last line."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

# A contestant that needs more than this share of the machine's memory fails, and alone: without a
# limit the machine would swap, or the system would choose which process to end.
MEMORY_SHARE = 0.75


def run_fresh(
    module: str, *arguments: str, timeout: float, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What the module printed, or the problem it ended with; `timeout` is in seconds.

    `variables` are added to the environment.
    """
    # The limit is set by the fresh process itself, in limit_memory: code between fork and exec is not
    # safe beside PyTorch's threads.
    try:
        finished = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **(variables or {})},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return {"problem": stopped(timeout)}
    if finished.returncode < 0:
        return {"problem": f"The process was ended by signal {-finished.returncode}."}
    if finished.returncode > 0:
        return {"problem": f"The process ended with exit status {finished.returncode}."}
    # Libraries may print, too; the result is the last line.
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def stopped(timeout: float) -> str:
    """The problem of a process that did not end in time."""
    return f"The process was stopped after {timeout:.0f} seconds."


def limit_memory() -> None:
    """Limit this process to its share of the machine's memory, where the system can."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(MEMORY_SHARE * physical)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
