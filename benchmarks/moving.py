"""A new point for each product: PyTorch's own product, hesse's compiled one and JAX's, in a loop over points.

    python -m benchmarks.moving                          # writes benchmarks/results/moving.json
    python -m benchmarks.moving --workload cubic --quick

Each workload runs in a process of its own. In a round every contestant goes over the same new points in turn, so that a
slow second of the machine hits all of them. `speedup` is the median over rounds of PyTorch's time over theirs in the
same round, and `with_checks` that ratio of the times of all rounds together: it holds hesse's comparisons with the tape
after the first round. The points and JAX's copies of them are made outside the timed region.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import environment, results_file, table, workloads
from benchmarks.contestants.base import flat_leaves
from benchmarks.processes import limit_memory, run_fresh
from benchmarks.workloads.base import Workload

POINTS = 200
# A contestant goes over several points in its turn, so that the clock's own cost vanishes.
TURN_SECONDS = 0.05
MOST_A_TURN = 50
TIMEOUT = 3600

DEFAULT_OUT = results_file.FOLDER / "moving.json"

Run = Callable[[Any], Any]
"""From a point to a product there."""


def torch_product(workload: Workload) -> tuple[Callable[[Any], Any], Run, Callable[[Any], Tensor]]:
    vector = workload.split(workload.rows[0])
    return (
        workload.leaves_of,
        lambda leaves: torch.autograd.functional.vhp(workload.on_leaves, leaves, vector)[1],
        flat_leaves,
    )


def hesse_product(workload: Workload) -> tuple[Callable[[Any], Any], Run, Callable[[Any], Tensor]]:
    import hesse

    vector = workload.vector()
    operator = hesse.Hessian(workload.func, workload.inputs, engine="compiled")

    def product(inputs: Any) -> Any:
        nonlocal operator
        operator = operator.at(inputs)
        return operator @ vector

    return lambda inputs: inputs, product, lambda answer: flat_leaves(workload.leaves_of(answer))


def jax_product(workload: Workload) -> tuple[Callable[[Any], Any], Run, Callable[[Any], Tensor]]:
    import jax

    from benchmarks.contestants.jax import Problem, to_jax, to_torch

    problem = Problem(workload)

    @jax.jit
    def product(inputs: Any, vector: Any, data: Any) -> Any:
        return jax.jvp(lambda point: problem.grad(point, *data), (inputs,), (vector,))[1]

    return (
        to_jax,
        lambda inputs: jax.block_until_ready(product(inputs, problem.vector, problem.data)),
        lambda answer: flat_leaves([to_torch(leaf) for leaf in workload.leaves_of(answer)]),
    )


CONTESTANTS = {"torch": torch_product, "hesse": hesse_product, "JAX": jax_product}


def measure(name: str, points: int, quick: bool) -> dict[str, Any]:
    """The row of one workload, in this process."""
    workload = workloads.build(name, quick=quick)
    ready = {}
    row: dict[str, Any] = {"name": name, "title": workload.title, "contestants": {}}
    for who, prepare in CONTESTANTS.items():
        try:
            ready[who] = convert, run, _ = prepare(workload)
            run(convert(_moved(workload, 0)))
        except Exception as error:
            ready.pop(who, None)
            row["contestants"][who] = {"problem": f"{type(error).__name__}: {str(error)[:200]}"}
    convert, run, _ = ready["torch"]
    began = time.perf_counter()
    run(convert(_moved(workload, 0)))
    each = max(1, min(MOST_A_TURN, points // 16, int(TURN_SECONDS / (time.perf_counter() - began))))
    seconds: dict[str, list[float]] = {who: [] for who in ready}
    for first in range(1, points, each):
        answers = {}
        for who, (convert, run, flat) in ready.items():
            given = [convert(_moved(workload, number)) for number in range(first, first + each)]
            began = time.perf_counter()
            for point in given:
                answer = run(point)
            seconds[who].append((time.perf_counter() - began) / each)
            answers[who] = flat(answer)
        for who, found in answers.items():
            error = float((found - answers["torch"]).norm() / answers["torch"].norm())
            row["contestants"].setdefault(who, {"error": 0.0})
            row["contestants"][who]["error"] = max(row["contestants"][who]["error"], error)
    # The first round holds what is compiled at first.
    base = seconds["torch"][1:]
    for who, (_, *times) in seconds.items():
        row["contestants"][who] |= {
            "seconds": median(times),
            "speedup": median(a / b for a, b in zip(base, times, strict=True)),
            "with_checks": sum(base) / sum(times),
        }
    return row | {"points": points, "points_a_turn": each}


def _moved(workload: Workload, number: int) -> Any:
    """The point of that number, in tensors of its own: so near the first that the function stays what it is."""
    return workload.rebuild(tuple(leaf * (1 + 1e-6 * number) for leaf in workload.leaves))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="moving", description="Time a product at each of many points.")
    parser.add_argument("--workload", action="append", choices=workloads.BUILDERS, help="repeatable; all")
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--note", default="", help="stands in the results: what else ran, say")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--out", type=Path, help="results file; for a full run benchmarks/results/moving.json")
    parser.add_argument("--here", action="store_true", help="the first workload, in this process, as JSON")
    options = parser.parse_args(arguments)
    names = options.workload or workloads.NAMES
    if options.here:
        limit_memory()
        # What was compiled before does not count.
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            print(json.dumps(measure(names[0], options.points, options.quick)))
        return 0
    out = options.out or (None if options.workload or options.quick else DEFAULT_OUT)
    results: dict[str, Any] = {"environment": environment.describe(), "note": options.note, "rows": []}
    for name in names:
        print(name, file=sys.stderr, flush=True)
        flags = ["--workload", name, "--points", str(options.points), "--here", *["--quick"] * options.quick]
        results["rows"].append({"name": name, "title": name, **run_fresh("moving", *flags, timeout=TIMEOUT)})
        if out:
            results_file.write(out, results)
    print(table.render(results, "moving"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
