"""One vector, 16 and 64 at once: time a vector and peak memory of every workload.

    python -m benchmarks.vectors                          # writes benchmarks/results/vectors.json
    python -m benchmarks.vectors --workload cubic --quick

Each workload runs in a process of its own. A round multiplies 64 vectors, so many at once, in turn, so that a slow
second of the machine hits all of them, and holds the 64 products, as whoever wants them does; seconds a vector are
medians over rounds, and the ratio is the median over rounds of the single vector's time over theirs in the same round.
Memory is what a call adds at its peak, by the allocator's events.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import environment, results_file, table, workloads
from benchmarks.processes import limit_memory, run_fresh

NUMBERS = (1, 16, 64)
ENGINES = ("tape", "compiled")
TIMEOUT = 3600
# Seconds of products that may go before it is known whether many vectors are faster at once.
SETTLING = 60

DEFAULT_OUT = results_file.FOLDER / "vectors.json"


def measure(name: str, engine: str, rounds: int, quick: bool) -> dict[str, Any]:
    """The row of one workload and engine, in this process."""
    import hesse
    from hesse._linearize import peak

    workload = workloads.build(name, quick=quick)
    H = hesse.Hessian(workload.func, workload.inputs, engine=engine)
    V = H.randn(max(NUMBERS), rng=0)
    # For trials, compiling and what is loaded at first.
    began = time.perf_counter()
    while H.explain().batching == "undecided" and time.perf_counter() - began < SETTLING:
        H @ V
    for number in NUMBERS:
        H @ V[:, :number]
    bytes_added = {number: peak.during(lambda k=number: H @ V[:, :k], H.device)[1] for number in NUMBERS}
    seconds: dict[int, list[float]] = {number: [] for number in NUMBERS}
    for _ in range(rounds):
        for number in NUMBERS:
            pieces = V.split(number, dim=1)
            began = time.perf_counter()
            products = [H @ columns for columns in pieces]
            seconds[number].append((time.perf_counter() - began) / V.shape[1])
            del products
    explained = H.explain()
    return {
        "engine": explained.engine,
        "batching": explained.batching,
        "chunk": explained.chunk,
        "reason": explained.batching_reason,
        "compile_seconds": explained.compile_seconds,
        "vectors": [
            {
                "number": number,
                "seconds_a_vector": median(seconds[number]),
                "ratio": median(one / many for one, many in zip(seconds[1], seconds[number], strict=True)),
                "bytes_added": bytes_added[number],
            }
            for number in NUMBERS
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vectors", description="Time one vector, and many at once.")
    parser.add_argument("--workload", action="append", choices=workloads.BUILDERS, help="repeatable")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="repeatable")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, help="results file; for a full run benchmarks/results/vectors.json")
    parser.add_argument("--here", action="store_true", help="the first workload and engine, in this process, as JSON")
    options = parser.parse_args(arguments)
    names, engines = options.workload or workloads.NAMES, options.engine or ENGINES
    if options.here:
        limit_memory()
        # What was compiled before does not count.
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            print(json.dumps(measure(names[0], engines[0], options.rounds, options.quick)))
        return 0
    rows = []
    for name in names:
        for engine in engines:
            print(f"{name}, {engine}", file=sys.stderr, flush=True)
            flags = ["--workload", name, "--engine", engine, "--rounds", str(options.rounds), "--here"]
            row = run_fresh("vectors", *flags, *(["--quick"] if options.quick else []), timeout=TIMEOUT)
            rows.append({"workload": name, "asked": engine, **row})
    results = {"environment": environment.describe(), "torch_threads": torch.get_num_threads(), "rows": rows}
    out = options.out or (None if options.workload or options.quick else DEFAULT_OUT)
    if out:
        results_file.write(out, results)
    print(table.render(results, "vectors"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
