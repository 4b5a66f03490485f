"""What ``engine="auto"`` decides for, and what all products take by it; and a dense Hessian by each engine.

``python -m benchmarks.engines`` writes benchmarks/results/engines.json. Each workload has a process of its own, in
which as many products are made as take ten seconds on the tape: by the tape, by a new operator with ``engine="auto"``
(what it tries and compiles included), and by the tape again, whose two times are averaged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import hesse
from benchmarks import environment, results_file, table, workloads
from benchmarks.processes import limit_memory, run_fresh
from benchmarks.workloads.base import Workload

SECONDS = 10.0
DENSE = "digits"
ROWS = 400
TIMEOUT = 1800


def measure(name: str, seconds: float, quick: bool) -> dict[str, Any]:
    """The row of one workload."""
    workload = workloads.build(name, quick=quick)
    vector = workload.vector()
    tape = hesse.Hessian(workload.func, workload.inputs, engine="tape")
    for _ in range(3):
        tape @ vector
    each = min(_seconds(lambda: tape @ vector) for _ in range(5))
    number = max(4, int(seconds / each))

    def repeated(make: Callable[[], hesse.Hessian]) -> tuple[float, hesse.Hessian]:
        began = time.perf_counter()
        operator = make()
        for _ in range(number):
            operator @ vector
        return time.perf_counter() - began, operator

    def auto() -> hesse.Hessian:
        return hesse.Hessian(workload.func, workload.inputs, expect=number)

    before, _ = repeated(lambda: tape)
    ours, operator = repeated(auto)
    after, _ = repeated(lambda: tape)
    explained = operator.explain()
    found = {
        "name": name,
        "title": workload.title,
        "products": number,
        "tape": (before + after) / 2,
        "auto": ours,
        "engine": explained.engine,
        "reason": explained.engine_reason,
        "spent": explained.compile_seconds,
    }
    if name == DENSE:
        found["dense"] = _dense(workload)
    return found


def _dense(workload: Workload) -> list[dict[str, Any]]:
    """The dense Hessian by each engine, as a part of a loop of single products by the tape, made before and after."""
    tape = hesse.Hessian(workload.func, workload.inputs, engine="tape")
    size = tape.shape[0]

    def loop() -> float:
        rows = torch.eye(size)[:: max(1, size // ROWS)]
        began = time.perf_counter()
        for row in rows:
            tape @ row
        return (time.perf_counter() - began) / len(rows) * size

    loop()
    rows = []
    for engine in ("tape", "compiled", "auto"):
        made = time.perf_counter()
        operator = hesse.Hessian(workload.func, workload.inputs, engine=engine)
        made = time.perf_counter() - made
        before = loop()
        began = time.perf_counter()
        operator.to_dense()
        seconds = time.perf_counter() - began
        rows.append(
            {
                "asked": engine,
                "engine": operator.explain().engine,
                "made": made,
                "seconds": seconds,
                "ratio": 2 * seconds / (before + loop()),
            }
        )
    return rows


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="engines", description='Time what engine="auto" decides for.')
    parser.add_argument("--workload", action="append", choices=workloads.BUILDERS, help="repeatable; all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of products by the tape")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, help="results file; for a full run benchmarks/results/engines.json")
    parser.add_argument("--here", action="store_true", help="the first workload, in this process, as JSON")
    options = parser.parse_args(arguments)
    names = options.workload or workloads.NAMES
    if options.here:
        limit_memory()
        # What was compiled before does not count.
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            print(json.dumps(measure(names[0], options.seconds, options.quick)))
        return 0
    rows = []
    for name in names:
        print(name, file=sys.stderr, flush=True)
        flags = ["--workload", name, "--seconds", str(options.seconds), "--here", *["--quick"] * options.quick]
        rows.append(run_fresh("engines", *flags, timeout=TIMEOUT))
    results = {"environment": environment.describe(), "rows": rows}
    out = options.out or (None if options.workload or options.quick else results_file.FOLDER / "engines.json")
    if out:
        results_file.write(out, results)
    print(table.render(results, "engines"))
    print(table.render(results, "dense"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
