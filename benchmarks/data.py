"""Products over several batches of data, beside the peers that take models and data.

    python -m benchmarks.data                             # writes benchmarks/results/data.json
    python -m benchmarks.data --problem digits --quick

Three matrices: the Hessian and the Gauss-Newton matrix of the loss over all batches, and the Hessian of one batch, of
which PyHessian keeps the graph. Contestants take turns round by round, in one process a problem and matrix; each answer
is compared with float64. Twenty Lanczos steps from a new point are timed with all batches kept and with none, beside
what counting products of matrices allows. Peak memory is that of a fresh process: first the peer's, then hesse's with
``memory=`` set to it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import answers, environment, harness, results_file
from benchmarks.contestants.base import Prepared
from benchmarks.data_contestants import COMPILED, MATRICES, OURS, by_name, gauss_newton_product, hesse_operator
from benchmarks.data_problems import BUILDERS, Problem, build
from benchmarks.harness import QUICK, Budget, Entry, check_and_warm, paired_speedup, run_rounds
from benchmarks.memory_one import peak_mib, reset_peak
from benchmarks.processes import limit_memory, run_fresh

TIMEOUT = 3600
STEPS = 20
DEFAULT_OUT = results_file.FOLDER / "data.json"


def problem_of(matrix: str, name: str, quick: bool, dtype: torch.dtype = torch.float32) -> Problem:
    return build(name, dtype, quick, most=1 if matrix == "one batch" else None)


def reference(matrix: str, name: str, quick: bool) -> answers.Reference:
    """The product in float64, all data in one batch."""
    problem = problem_of(matrix, name, quick, torch.float64)
    if matrix != "gauss-newton":
        return answers.reference(problem.whole, torch.float32)
    sizes = tuple(leaf.numel() for leaf in problem.whole.leaves)
    return answers.Reference(gauss_newton_product(problem)[None], sizes, torch.float32)


def products(name: str, matrix: str, seconds: float, quick: bool) -> dict[str, Any]:
    """Every contestant's times in this process."""
    expected = reference(matrix, name, quick)
    budget = QUICK if quick else Budget(seconds=seconds * len(harness.COLUMNS))
    found: dict[str, Any] = {}
    entries = []
    for contestant in MATRICES[matrix]:
        # Each its own model: peers leave gradients and modes behind.
        problem = problem_of(matrix, name, quick)
        found[contestant.name] = {"problem": None}
        try:
            entries.append(Entry(contestant.name, contestant.prepare(problem), "one"))
        except Exception as error:
            found[contestant.name]["problem"] = harness.one_sentence(error)
    timed(entries, expected, budget)
    for entry in entries:
        found[entry.name] |= {"problem": entry.problem}
        if entry.problem is None:
            row = {"seconds": entry.seconds, "median_seconds": median(entry.seconds)}
            found[entry.name] |= row | {"relative_error": entry.relative_error}
    return {"title": problem_of(matrix, name, quick).whole.title, "contestants": found}


def timed(entries: Sequence[Entry], expected: answers.Reference, budget: Budget) -> None:
    for entry in entries:
        check_and_warm(entry, expected, budget)
    run_rounds([entry for entry in entries if entry.problem is None], expected, budget)


def lanczos(H: Any, start: Tensor) -> Tensor:
    """So many steps without reorthogonalization, whose own work is nothing; returns the first product."""
    vector, before, first = start / start.norm(), torch.zeros_like(start), None
    beta = torch.zeros(())
    for _ in range(STEPS):
        product = H @ vector
        first = product * start.norm() if first is None else first
        product = product - beta * before
        product = product - (product @ vector) * vector
        beta = product.norm()
        vector, before = product / beta, vector
    assert first is not None
    return first


def steps(name: str, seconds: float, quick: bool) -> dict[str, Any]:
    """Lanczos from a new point, with everything kept and with nothing, by both engines."""
    expected = reference("hessian", name, quick)
    entries = []
    for engine in ("tape", "compiled"):
        for recomputes in (False, True):
            problem = problem_of("hessian", name, quick)
            H = hesse_operator("LossHessian", problem, engine, None, recomputes)

            def run(H: Any = H, start: Tensor = problem.vector) -> Tensor:
                return lanczos(H.at(), start)

            prepared = Prepared(run, run, run, lambda answer: answer, lambda answer: answer[None])
            entries.append(Entry(f"{engine}, {'recomputed' if recomputes else 'kept'}", prepared, "one"))
    timed(entries, expected, QUICK if quick else Budget(seconds=seconds * len(harness.COLUMNS)))
    by = {entry.name: entry for entry in entries}
    ratio = problem_of("hessian", name, quick).whole.counted_ratio
    assert ratio is not None
    return {
        "problems": {entry.name: entry.problem for entry in entries if entry.problem},
        "median_seconds": {entry.name: median(entry.seconds) for entry in entries if not entry.problem},
        # One evaluation with a product, then products alone, against as many evaluations as products.
        "counted_gain": STEPS * ratio / (ratio + STEPS - 1),
        "gain": {
            engine: paired_speedup(by[f"{engine}, recomputed"].seconds, by[f"{engine}, kept"].seconds)
            for engine in ("tape", "compiled")
            if not (by[f"{engine}, recomputed"].problem or by[f"{engine}, kept"].problem)
        },
    }


def peak(name: str, matrix: str, contestant: str, memory: int | None, quick: bool) -> dict[str, Any]:
    """MiB that getting ready and two products add to this process at most."""
    chosen = by_name(matrix, contestant)
    try:
        # What libraries load at their first product, and what compilers take, is not the product's.
        chosen.prepare(problem_of(matrix, name, quick=True)).one()
        problem = problem_of(matrix, name, quick)
        make = partial(chosen.make, problem, memory)
        if contestant == COMPILED:
            make = at_a_new_point(problem, memory)
        reset_peak()
        before = peak_mib()
        multiply = make()
        for _ in range(2):
            multiply()
        return {"problem": None, "mib": peak_mib() - before}
    except Exception as error:
        return {"problem": harness.one_sentence(error), "mib": None}


def at_a_new_point(problem: Problem, memory: int | None) -> Callable[[], Callable[[], Tensor]]:
    """Compiles, and returns what is there at a point where nothing is kept yet."""
    compiled = hesse_operator("LossHessian", problem, "compiled", memory, recomputes=False)
    compiled @ problem.vector
    moved = compiled.at()
    compiled.close()
    return lambda: lambda: moved @ problem.vector


def peaks(name: str, quick: bool) -> dict[str, Any]:
    """Each peer's peak for the Hessian's product, and ours within it, each in a fresh process."""
    found = {}
    flags = ["--problem", name, "--matrix", "hessian", *(["--quick"] if quick else [])]
    for peer in MATRICES["hessian"]:
        if peer.name.split(",")[0] in OURS:
            continue
        theirs = run_fresh("data", *flags, "--peak", peer.name, timeout=TIMEOUT)
        row: dict[str, Any] = {"problem": theirs["problem"], "mib": theirs.get("mib"), "hesse": {}}
        if row["problem"] is None and row["mib"] > 0:
            budget = ["--memory", str(int(row["mib"] * 2**20))]
            for contestant in OURS:
                row["hesse"][contestant] = run_fresh("data", *flags, *budget, "--peak", contestant, timeout=TIMEOUT)
        found[peer.name] = row
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="data", description="Products over data, beside the peers.")
    parser.add_argument("--problem", action="append", choices=BUILDERS, help="repeatable")
    parser.add_argument("--matrix", action="append", choices=MATRICES, help="repeatable")
    parser.add_argument("--seconds", type=float, default=60, help="for the rounds of each problem and matrix")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--no-memory", action="store_true", help="leave peaks out")
    parser.add_argument("--out", type=Path, help="results file; for a full run benchmarks/results/data.json")
    parser.add_argument("--here", choices=("products", "steps"), help="the first problem, in this process, as JSON")
    parser.add_argument("--peak", help="the peak of this contestant, in this process, as JSON")
    parser.add_argument("--memory", type=int, help="the budget of --peak in bytes")
    options = parser.parse_args(arguments)
    names, matrices = options.problem or list(BUILDERS), options.matrix or list(MATRICES)
    if options.peak or options.here:
        limit_memory()
        if options.peak:
            row = peak(names[0], matrices[0], options.peak, options.memory, options.quick)
        elif options.here == "products":
            row = products(names[0], matrices[0], options.seconds, options.quick)
        else:
            row = steps(names[0], options.seconds, options.quick)
        print(json.dumps(row, allow_nan=False))
        return 0
    results: dict[str, Any] = {"environment": environment.describe(), "problems": {}}
    out = options.out or (None if options.problem or options.matrix or options.quick else DEFAULT_OUT)
    common = ["--seconds", str(options.seconds), *(["--quick"] if options.quick else [])]
    for name in names:
        row = results["problems"][name] = {"matrices": {}}
        for matrix in matrices:
            print(f"{name}, {matrix}", file=sys.stderr, flush=True)
            flags = ["--problem", name, "--matrix", matrix, "--here", "products"]
            row["matrices"][matrix] = run_fresh("data", *flags, *common, timeout=TIMEOUT)
        if "hessian" in matrices:
            print(f"{name}, {STEPS} Lanczos steps", file=sys.stderr, flush=True)
            row["steps"] = run_fresh("data", "--problem", name, "--here", "steps", *common, timeout=TIMEOUT)
            if not options.no_memory:
                row["peaks"] = peaks(name, options.quick)
        if out:
            results_file.write(out, results)
    from benchmarks.views_data import everything

    print(everything(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
