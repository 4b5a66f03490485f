"""What the questions take beside SciPy, Hutchinson's estimator and the peers: products, and for eigenvalues time too.

    python -m benchmarks.questions                writes benchmarks/results/questions.json (about half an hour)
    python -m benchmarks.questions --again        from the beginning, whatever is there
    python -m benchmarks.questions --only trace   parts whose names begin so; written only if the others are there

Parts that are done stand in results/questions.part.json while the others are under way: a run that is cut short goes on
from there, if the commit is the same. Counts are no matter of the clock; the eigenvalues want a quiet machine.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import counts, environment, results_file, table
from benchmarks.processes import run_fresh

# Seconds for attempts, references and rounds of one workload's eigenvalues.
TIMEOUT = 3600

DEFAULT_OUT = results_file.FOLDER / "questions.json"


def eigenvalues(name: str, seconds: float, cap: float) -> dict[str, Any]:
    """The ten largest eigenvalues by everybody, in a process of its own."""
    words = ("--seconds", str(seconds), "--cap", str(cap))
    return run_fresh("eigenvalues_one", name, *words, timeout=TIMEOUT)


def parts() -> dict[str, Callable[[], dict[str, Any]]]:
    """All that is measured, by name: the table it belongs to, and the row."""
    found: dict[str, Callable[[], dict[str, Any]]] = {
        "eigenvalues/digits": lambda: eigenvalues("digits", 120, 60),
        "eigenvalues/gpt": lambda: eigenvalues("gpt", 120, 120),
    }
    for name, values in counts.SPECTRA.items():
        found[f"trace/{name}"] = lambda values=values: counts.traces(*counts.known(values))
    found["trace/the digits network"] = lambda: counts.traces(*counts.digits())
    for name, values in counts.SYSTEMS.items():
        found[f"solve/{name}"] = lambda values=values: counts.solves(values)
    found["shifts/twenty"] = counts.shifted
    found["preconditioner/nystrom"] = counts.preconditioned
    return found


def run(names: Sequence[str], kept: Path, again: bool) -> dict[str, Any]:
    """The parts, those in the file ``kept`` taken over if they are of this commit."""
    results: dict[str, Any] = {"environment": environment.describe(), "parts": {}}
    if kept.exists() and not again:
        before = results_file.read(kept)
        if before["environment"]["commit"] == results["environment"]["commit"]:
            results = before
    measures = parts()
    for name in names:
        if name not in results["parts"]:
            print(name, file=sys.stderr, flush=True)
            results["parts"][name] = measures[name]()
            results_file.write(kept, results)
    return results


def main(arguments: Sequence[str] | None = None, out: Path = DEFAULT_OUT) -> int:
    parser = argparse.ArgumentParser(prog="questions", description="Count and time what the questions take.")
    parser.add_argument("--again", action="store_true", help="measure what is done already, too")
    parser.add_argument("--only", action="append", default=[], help="parts whose names begin so; repeatable")
    options = parser.parse_args(arguments)
    kept = out.with_suffix(".part.json")
    names = [name for name in parts() if name.startswith(tuple(options.only) or "")]
    results = run(names, kept, options.again)
    if set(parts()) <= set(results["parts"]):
        results_file.write(out, results)
        kept.unlink()
    for view in ("eigenvalues", "eigenvalue-products", "traces", "solves"):
        print(table.render(results, view), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
