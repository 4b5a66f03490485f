"""Products that minimizing takes, beside SciPy, pytorch-minimize and optimistix.

``python -m benchmarks.minimize`` minimizes ten problems of the Moré-Garbow-Hillstrom collection and two of the
benchmark's workloads in float64, until the norm of the gradient is 1e-6 times that at the start or 1e-6, whichever is
more, and writes benchmarks/results/minimize.json. What is counted is no matter of the clock.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import environment, least_squares, results_file, table, workloads
from benchmarks.minimizers import MINIMIZERS, Minimizer, Task

TOL = 1e-6
WORKLOADS = ("lennard-jones-pairs", "digits")
DEFAULT_OUT = results_file.FOLDER / "minimize.json"


def gradient_norm(func: Any, x: Tensor) -> float:
    """The norm of PyTorch's own gradient."""
    x = x.detach().clone().requires_grad_()
    return float(torch.autograd.grad(func(x), x)[0].norm())


def of_problem(problem: least_squares.Problem) -> Task:
    """Half of the sum of squares of a problem of the collection."""

    def residuals(x: Tensor) -> Tensor:
        found: Tensor = problem.residuals(torch, x)
        return found

    def jax_residuals(x: Any) -> Any:
        import jax.numpy as jnp

        return problem.residuals(jnp, x)

    def func(x: Tensor) -> Tensor:
        return 0.5 * residuals(x).square().sum()

    x0 = torch.tensor(problem.start, dtype=torch.float64)
    target = TOL * max(1.0, gradient_norm(func, x0))
    return Task(problem.name, func, x0, target, residuals=residuals, jax_residuals=jax_residuals)


def of_workload(name: str, quick: bool = False) -> Task:
    """A workload of the benchmark, by one flat vector."""
    workload = workloads.build(name, torch.float64, quick)
    sizes = [leaf.numel() for leaf in workload.leaves]

    def func(x: Tensor) -> Tensor:
        return workload.func(workload.rebuild(workload.split(x)))

    def jax_func(x: Any) -> Any:
        import jax.numpy as jnp

        assert workload.jax_twin is not None
        stops = itertools.accumulate(sizes)
        parts = [
            x[stop - size : stop].reshape(tuple(leaf.shape))
            for stop, size, leaf in zip(stops, sizes, workload.leaves, strict=True)
        ]
        data = [jnp.asarray(each.numpy()) for each in workload.jax_data]
        return workload.jax_twin()(workload.rebuild(tuple(parts)), *data)

    x0 = torch.cat([leaf.flatten() for leaf in workload.leaves])
    return Task(workload.title, func, x0, TOL * max(1.0, gradient_norm(func, x0)), jax_func=jax_func)


def measure(task: Task, minimizer: Minimizer) -> dict[str, Any]:
    """What one of them takes, and where it ends, as PyTorch's own gradient in float64 says."""
    try:
        found = minimizer(task)
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    value, slope = float(task.func(found.x)), gradient_norm(task.func, found.x)
    return {
        "products": found.products,
        "evaluations": found.evaluations,
        "value": value if math.isfinite(value) else None,
        "gradient": slope if math.isfinite(slope) else None,
        # The contestants' own gradients differ from PyTorch's by rounding.
        "reached": slope <= 1.001 * task.target,
        "problem": None,
    }


def run(tasks: Iterable[Task]) -> dict[str, Any]:
    """All tasks by all who can."""
    results: dict[str, Any] = {"environment": environment.describe() | {"dtype": "float64"}, "tasks": []}
    for task in tasks:
        rows = {}
        for name, minimizer in MINIMIZERS.items():
            if name == "hesse, Levenberg-Marquardt" and task.residuals is None:
                continue
            print(task.title, name, file=sys.stderr, flush=True)
            rows[name] = measure(task, minimizer)
        results["tasks"].append({"title": task.title, "size": len(task.x0), "target": task.target, "minimizers": rows})
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="minimize", description="Count the products that minimizing takes.")
    parser.add_argument("--quick", action="store_true", help="small sizes of the workloads; printed only")
    options = parser.parse_args(arguments)
    tasks = [of_problem(problem) for problem in least_squares.PROBLEMS]
    tasks += [of_workload(name, options.quick) for name in WORKLOADS]
    results = run(tasks)
    if not options.quick:
        results_file.write(DEFAULT_OUT, results)
    for view in ("minimize-products", "minimize-values"):
        print(table.render(results, view), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
