"""Sparse Hessians: pattern, colors and values, by hesse and by asdex on JAX.

``python -m benchmarks.sparse`` writes benchmarks/results/sparse.json. The contestants take turns, each in a fresh
process a turn; a ratio is the median over turns of asdex's figure by hesse's. asdex 0.5.1 is installed by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks import environment, results_file
from benchmarks.processes import run_fresh, stopped
from benchmarks.sparse_problems import PROBLEMS
from benchmarks.views_sparse import sparse as view

CONTESTANTS = ("hesse", "hesse compiled", "asdex")
FIGURES = ("first_seconds", "again_seconds", "peak_mib")
TURNS, TIMEOUT = 3, 1800
# Seconds that the other library may take: eleven times what it takes for the chain of the same size.
LIMITS = {"asdex": 300}
# Relative, between the products of the two matrices in float64.
AGREEMENT = 1e-8


def measure(problem: str, turns: int, quick: bool) -> dict[str, Any]:
    """The medians of each contestant's figures, and the ratios turn by turn."""
    flags = ("--quick",) if quick else ()
    rounds: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for _ in range(turns):
        # One that has failed is not run again.
        turn = {one: _run(problem, one, flags) for one in CONTESTANTS if one not in failed}
        failed |= {one: figures["problem"] for one, figures in turn.items() if figures["problem"]}
        rounds.append(turn)
    found: dict[str, Any] = {"name": problem, "problems": failed}
    for one in CONTESTANTS:
        if one not in failed:
            found[one] = rounds[-1][one] | {key: median(turn[one][key] for turn in rounds) for key in FIGURES}
    theirs = found.get("asdex")
    for one in CONTESTANTS[:-1]:
        if theirs is not None and one in found:
            found[one]["ratios"] = {
                key: median(turn["asdex"][key] / max(turn[one][key], 1e-9) for turn in rounds) for key in FIGURES
            }
            found[one]["agrees"] = all(
                abs(found[one][key] - theirs[key]) <= AGREEMENT * theirs["norm"] for key in ("norm", "component")
            )
    return found


def _run(problem: str, contestant: str, flags: Sequence[str]) -> dict[str, Any]:
    """What one contestant takes, or that it did not end in time."""
    limit = LIMITS.get(contestant, TIMEOUT)
    figures = run_fresh("sparse_one", problem, contestant, *flags, timeout=limit)
    if figures["problem"] == stopped(limit):
        figures["problem"] = f"{contestant} did not end within {limit} s"
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sparse", description="Sparse Hessians beside asdex.")
    parser.add_argument("--problem", choices=PROBLEMS, action="append", help="only this one")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; printed only")
    options = parser.parse_args(arguments)
    chosen = options.problem or list(PROBLEMS)
    rows = [measure(problem, options.turns, options.quick) for problem in chosen]
    file = results_file.FOLDER / "sparse.json"
    if options.problem and not options.quick and file.exists():
        # The other problems' rows stay as they were measured before.
        rows += [row for row in results_file.read(file)["rows"] if row["name"] not in chosen]
    rows.sort(key=lambda row: list(PROBLEMS).index(row["name"]))
    results = {"environment": environment.describe(), "turns": options.turns, "rows": rows}
    if not options.quick:
        results_file.write(file, results)
    print(view(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
