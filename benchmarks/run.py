"""Runs the benchmarks and writes one results file.

    python -m benchmarks

A run of some workloads or contestants only, or a quick one, is printed; it is written only where
`--out` says, so that it cannot replace the full results.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import environment, memory, results_file, table, views, workloads
from benchmarks.contestants import BASELINE, CONTESTANTS
from benchmarks.harness import Budget
from benchmarks.processes import run_fresh

# Seconds for the checks, the compilations and the rounds that the budget does not bound.
TIMEOUT = 3600

DEFAULT_OUT = results_file.FOLDER / "cpu.json"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time hesse beside its peers.")
    parser.add_argument("--workload", action="append", choices=workloads.BUILDERS, help="repeatable; all")
    parser.add_argument("--contestant", action="append", choices=CONTESTANTS, help="repeatable; all")
    parser.add_argument("--seconds", type=float, default=Budget().seconds, help="for each workload")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks of memory")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: only a trial")
    parser.add_argument("--out", type=Path, help="results file; for a full run benchmarks/results/cpu.json")
    return parser.parse_args(arguments)


def run(
    workload_names: Sequence[str],
    contestants: Sequence[str],
    seconds: float,
    with_memory: bool,
    quick: bool,
    out: Path | None,
) -> dict[str, Any]:
    """Time the workloads one after another; what is known so far stands in the file `out` at any time."""
    flags = ("--quick",) if quick else ()
    results: dict[str, Any] = {
        "environment": environment.describe(),
        "baseline": BASELINE,
        "seconds_per_workload": seconds,
        "quick": quick,
        "workloads": [],
    }
    for name in workload_names:
        print(f"timing {name}", file=sys.stderr, flush=True)
        timed = run_fresh(
            "timing_one", name, *contestants, "--seconds", str(seconds), *flags, timeout=TIMEOUT + 10 * seconds
        )
        if "contestants" not in timed:
            # The process died: every contestant gets that problem, since nobody knows whose it was.
            problem = {"problem": timed["problem"], "columns": {}}
            timed = {"name": name, "title": name, "contestants": {each: dict(problem) for each in contestants}}
        if with_memory:
            print(f"memory of {name}", file=sys.stderr, flush=True)
            right = [each for each in contestants if views.measured(timed, each, "one")]
            for contestant, peak in memory.measure(name, right, quick).items():
                timed["contestants"][contestant]["memory"] = peak
        results["workloads"].append(timed)
        if out:
            results_file.write(out, results)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # The baseline always runs: without it there is no ratio.
    chosen = [name for name in CONTESTANTS if name in {BASELINE, *(options.contestant or CONTESTANTS)}]
    full = not (options.workload or options.contestant or options.quick or options.no_memory)
    out = options.out or (DEFAULT_OUT if full else None)
    results = run(
        options.workload or workloads.NAMES,
        chosen,
        options.seconds,
        not options.no_memory,
        options.quick,
        out,
    )
    print(table.render(results, "all"))
    return 0
