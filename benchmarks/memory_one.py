"""The peak memory of one contestant on one workload, in a process that does nothing else.

    python -m benchmarks.memory_one WORKLOAD CONTESTANT

What is compared is the peak during a gradient, during a product at a kept point, and during the
products with all vectors there, what is kept included. Each is called once before, so that a compiler's
own memory is not taken for the product's.
"""

import argparse
import ctypes
import gc
import importlib
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import workloads
from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.base import Contestant
from benchmarks.harness import one_sentence
from benchmarks.processes import limit_memory
from benchmarks.workloads.base import Workload


def peak_mib() -> float:
    """The largest resident set of this process, since the last reset or so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would start from the parent's size, which Linux carries over fork and exec.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Let the peak start again from what is held now; where the system cannot, it goes on rising."""
    gc.collect()
    if sys.platform == "linux":
        # What was freed but kept by the allocator for later would count as held.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            # Linux: "5" resets the high-water mark of the resident set.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def peak_during(call: Callable[[], Any]) -> float:
    call()
    reset_peak()
    call()
    return peak_mib()


def use(contestant: Contestant, workload: Workload) -> None:
    prepared = contestant.prepare(workload, contestant.lay_out(workload))
    prepared.one()
    prepared.many()


def measure(workload_name: str, contestant_name: str, quick: bool) -> dict[str, float | str | None]:
    contestant = CONTESTANTS[contestant_name]
    try:
        importlib.import_module(contestant.module)
        # What a library loads when it is first used is not the workload's memory.
        use(contestant, workloads.build(workload_name, quick=True))
        workload = workloads.build(workload_name, quick=quick)
        vectors = contestant.lay_out(workload)
        gradient = peak_during(contestant.gradient(workload, vectors))
        prepared = contestant.prepare(workload, vectors)
        one = peak_during(prepared.one)
        many = peak_during(prepared.many)
    except Exception as error:
        return {"problem": one_sentence(error)}
    return {"problem": None, "gradient_mib": gradient, "one_mib": one - gradient, "many_mib": many - gradient}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the peak memory of one contestant.")
    parser.add_argument("workload", choices=workloads.BUILDERS)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    arguments = parser.parse_args()
    limit_memory()
    print(json.dumps(measure(arguments.workload, arguments.contestant, arguments.quick)))


if __name__ == "__main__":
    main()
