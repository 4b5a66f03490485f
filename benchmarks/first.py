"""The first compiled product of a process, which captures and compiles, or finds what another process saved.

    python -m benchmarks.first                      # writes benchmarks/results/first.json
    python -m benchmarks.first --workload mlp

Three fresh processes a workload, one after the other: hesse with empty folders, hesse again with the folders that the
first has filled, and JAX, which keeps nothing. Seconds are from the function to its first product, imports aside.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import environment, moving, results_file, table, workloads
from benchmarks.processes import limit_memory, run_fresh
from benchmarks.views_engines import FIRST

NAMES = ("rosenbrock", "mlp", "gpt", "cnn", "resnet", "lstm")
TIMEOUT = 900
DEFAULT_OUT = results_file.FOLDER / "first.json"


def first_product(name: str, who: str, quick: bool) -> dict[str, Any]:
    """Seconds of the wall and of processors from the function to its first product, in this process."""
    workload = workloads.build(name, quick=quick)
    if who == "JAX":
        import jax.numpy as jnp

        jnp.zeros(1).block_until_ready()
    else:
        import hesse
    began, worked = time.perf_counter(), _processor_seconds()
    if who == "JAX":
        convert, run, _ = moving.CONTESTANTS[who](workload)
        run(convert(workload.inputs))
    else:
        hesse.Hessian(workload.func, workload.inputs, engine="compiled") @ workload.vector()
    return {"seconds": time.perf_counter() - began, "processor_seconds": _processor_seconds() - worked}


def _processor_seconds() -> float:
    """Of this process, and of the compilers that it has started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(name: str, quick: bool) -> dict[str, Any]:
    """The row of one workload."""
    row: dict[str, Any] = {"name": name, "title": workloads.build(name, quick=quick).title}
    with tempfile.TemporaryDirectory() as folder:
        variables = {key: str(Path(folder) / key) for key in ("HESSE_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
        for key, who in FIRST.items():
            flags = ["--here", who, "--workload", name, *["--quick"] * quick]
            row[key] = run_fresh("first", *flags, timeout=TIMEOUT, variables=variables)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="first", description="Time the first compiled product of a process.")
    parser.add_argument("--workload", action="append", choices=workloads.BUILDERS, help="repeatable; six of them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; printed only")
    parser.add_argument("--here", choices=set(FIRST.values()), help="of the first workload, in this process, as JSON")
    options = parser.parse_args(arguments)
    names = options.workload or NAMES
    if options.here:
        limit_memory()
        print(json.dumps(first_product(names[0], options.here, options.quick)))
        return 0
    results: dict[str, Any] = {"environment": environment.describe(), "rows": []}
    for name in names:
        print(name, file=sys.stderr, flush=True)
        results["rows"].append(measure(name, options.quick))
        if not (options.workload or options.quick):
            results_file.write(DEFAULT_OUT, results)
    print(table.render(results, "first"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
