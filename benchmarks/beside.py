"""Two checkouts of hesse beside each other: how fast each row of the tables is in this one, of the other's speed.

    python benchmarks/beside.py OTHER                     # writes benchmarks/results/beside.json
    python benchmarks/beside.py OTHER --row "products mlp" --rounds 3

Every round starts a fresh process of each checkout, each with its own benchmarks. Only one of the two runs at a time:
they change over after every turn of a contestant, so that a slow second of the machine hits both. Both count processor
seconds of one thread, which a busy machine disturbs least; the figure is the ratio of medians over rounds.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, TextIO

HERE = Path(__file__).parents[1]
WORKLOADS = ["cubic", "digits", "rosenbrock", "lennard-jones-pairs", "lennard-jones-all", "logistic", "mlp", "gpt"]
WORKLOADS += ["lstm", "cnn", "resnet"]
DATA = ("hessian", "gauss-newton")
# What a process says when it waits for its turn.
WAITS = "waits\n"


def products(name: str, seconds: float) -> dict[str, float]:
    """Seconds of a lone product, of a replay and of sixteen vectors at once, by each engine."""
    import torch

    from benchmarks import workloads
    from benchmarks.answers import reference
    from benchmarks.contestants import CONTESTANTS
    from benchmarks.harness import Budget, measure

    expected = reference(workloads.build(name, torch.float64), dtype=torch.float32)
    found = measure(
        workloads.build(name),
        expected,
        [CONTESTANTS["hesse"], CONTESTANTS["hesse compiled"]],
        "hesse",
        Budget(seconds=seconds * 3),
        clock=time.process_time,
    )
    return {
        f"{column}, {contestant}": row["median_seconds"]
        for contestant, result in found["contestants"].items()
        for column, row in result["columns"].items()
        if row["problem"] is None
    }


def data(name: str, seconds: float) -> dict[str, float]:
    """Seconds of a product over batches, and of twenty Lanczos steps from a new point, by each engine."""
    from functools import partial

    from benchmarks import data as table
    from benchmarks.contestants.base import Prepared
    from benchmarks.data_contestants import all_of_ours, hesse_operator
    from benchmarks.harness import Budget, Entry, check_and_warm, run_rounds

    found: dict[str, float] = {}
    for matrix, operator in zip(DATA, ("LossHessian", "GaussNewton"), strict=True):
        expected = table.reference(matrix, name, quick=False)
        entries = []
        for contestant in all_of_ours(operator):
            problem = table.problem_of(matrix, name, quick=False)
            entries.append(Entry(contestant.name, contestant.prepare(problem), "one"))
        if matrix == "hessian":
            for engine in ("tape", "compiled"):
                problem = table.problem_of(matrix, name, quick=False)
                H = hesse_operator(operator, problem, engine, None, recomputes=False)
                run = partial(lambda H, start: table.lanczos(H.at(), start), H, problem.vector)
                prepared = Prepared(run, run, run, lambda answer: answer, lambda answer: answer[None])
                entries.append(Entry(f"Lanczos, {engine}", prepared, "one"))
        for entry in entries:
            check_and_warm(entry, expected, Budget(), time.process_time)
        run_rounds(entries, expected, Budget(seconds=seconds * 3), time.process_time)
        found |= {f"{matrix}, {entry.name}": median(entry.seconds) for entry in entries if entry.problem is None}
    return found


def dense(name: str, seconds: float) -> dict[str, float]:
    """Seconds of a dense Hessian by the tape."""
    import hesse
    from benchmarks import workloads

    workload = workloads.build(name)
    H = hesse.Hessian(workload.func, workload.inputs, engine="tape")
    began = time.process_time()
    H.to_dense()
    return {"dense": time.process_time() - began}


TABLES = {"products": products, "data": data, "dense": dense}
ROWS = [
    *(f"products {name}" for name in WORKLOADS),
    *(f"data {name}" for name in ("digits", "cnn", "gpt")),
    "dense digits",
]


def run_pair(trees: Sequence[Path], row: str, seconds: float) -> list[dict[str, float]]:
    """One row in a fresh process of each checkout; the one runs while the other waits for its turn."""
    processes = [_start(tree, row, seconds) for tree in trees]
    answers: list[dict[str, float]] = [{} for _ in trees]
    running = list(range(len(trees)))
    while running:
        for place in list(running):
            process = processes[place]
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if line == WAITS:
                continue
            running.remove(place)
            if line:
                answers[place] = dict(json.loads(line))
            process.communicate()
    return answers


def _start(tree: Path, row: str, seconds: float) -> Any:
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{tree / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tree), "--row", row, "--seconds", str(seconds), "--here"]
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def take_turns() -> TextIO:
    """Wait for a line from the parent, now and before each turn of a contestant; returns what the parent reads."""
    from benchmarks import harness

    answers, sys.stdout = sys.stdout, sys.stderr
    turn = harness.take_turn

    def when_asked(*arguments: Any) -> None:
        print(WAITS, end="", file=answers, flush=True)
        sys.stdin.readline()
        turn(*arguments)

    sys.stdin.readline()
    harness.take_turn = when_asked
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(description="Time this checkout beside another one.")
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--row", action="append", choices=ROWS, help="repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a column, in each process")
    parser.add_argument("--out", type=Path, default=HERE / "benchmarks" / "results" / "beside.json")
    parser.add_argument("--here", action="store_true", help="the first row in this process, as JSON")
    options = parser.parse_args()
    rows = options.row or ROWS
    if options.here:
        table, name = rows[0].split()
        answers = take_turns()
        print(json.dumps(TABLES[table](name, options.seconds)), file=answers)
        return 0
    results: dict[str, Any] = {}
    for row in rows:
        taken: dict[str, list[list[float]]] = {}
        for _ in range(options.rounds):
            pair = run_pair((options.other.resolve(), HERE), row, options.seconds)
            for column in pair[0].keys() | pair[1].keys():
                seconds = taken.setdefault(column, [[], []])
                for place in (0, 1):
                    if column in pair[place]:
                        seconds[place].append(pair[place][column])
        results[row] = {
            column: {"other": other, "this": this, "speed": median(other) / median(this) if other and this else None}
            for column, (other, this) in sorted(taken.items())
        }
        for column, result in results[row].items():
            print(f"{row:28} {column:40} {result['speed'] or math.nan:6.3f}", flush=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    for table in TABLES:
        speeds = [
            column["speed"]
            for row, columns in results.items()
            if row.startswith(table)
            for column in columns.values()
            if column["speed"]
        ]
        if speeds:
            print(f"{table}: geometric mean {geometric_mean(speeds):.3f}, least {min(speeds):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
