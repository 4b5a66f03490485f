"""What a compiled product costs when less is kept between products: seconds and bytes, from everything to nothing.

``python -m benchmarks.recomputation`` gives the GPT's and the CNN's Hessian less and less memory, and writes
benchmarks/results/recomputation.json. All operators of a workload are timed in turns, in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import hesse
from benchmarks import environment, results_file, table, workloads
from benchmarks.processes import limit_memory, run_fresh

WORKLOADS = ("gpt", "cnn")
# Of what the program keeps by itself.
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
ROUNDS = 9
TIMEOUT = 1800


def measure(name: str, quick: bool) -> dict[str, Any]:
    """The rows of one workload: the tape, and programs that may keep less and less."""
    workload = workloads.build(name, quick=quick)
    vector = workload.vector()
    tape = hesse.Hessian(workload.func, workload.inputs, engine="tape")
    most = hesse.Hessian(workload.func, workload.inputs, engine="compiled")
    inputs = sum(leaf.nbytes for leaf in workload.leaves)
    beyond = most.explain().bytes_kept - inputs
    operators = {"tape": tape, "compiled": most}
    for share in SHARES[1:]:
        operators[f"compiled, at most {share:.0%}"] = hesse.Hessian(
            workload.func, workload.inputs, engine="compiled", memory=max(1, int(share * beyond))
        )
    seconds: dict[str, list[float]] = {kind: [] for kind in operators}
    for _ in range(ROUNDS):
        for kind, operator in operators.items():
            operator @ vector
            began = time.perf_counter()
            operator @ vector
            seconds[kind].append(time.perf_counter() - began)
    return {
        "name": name,
        "title": workload.title,
        "rows": [
            {
                "kind": kind,
                "kept": operator.explain().bytes_kept - inputs,
                "seconds": median(seconds[kind]),
                "ratio": median(a / b for a, b in zip(seconds["tape"], seconds[kind], strict=True)),
            }
            for kind, operator in operators.items()
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="recomputation", description="Time products that keep less and less.")
    parser.add_argument("--here", choices=WORKLOADS, help="one workload, in this process, as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; printed only")
    options = parser.parse_args(arguments)
    if options.here:
        limit_memory()
        print(json.dumps(measure(options.here, options.quick)))
        return 0
    flags = ["--quick"] if options.quick else []
    found = [run_fresh("recomputation", "--here", name, *flags, timeout=TIMEOUT) for name in WORKLOADS]
    results = {"environment": environment.describe(), "workloads": found}
    if not options.quick:
        results_file.write(results_file.FOLDER / "recomputation.json", results)
    print(table.render(results, "recomputation"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
