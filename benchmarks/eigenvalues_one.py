"""Times the ten largest eigenvalues of one workload's Hessian, in a process of its own.

    python -m benchmarks.eigenvalues_one digits --seconds 120 --cap 60

Everybody is asked for the same accuracy, by true residuals in float64: the least effort that reaches it is what is
timed, round by round beside the others. Who does not reach it within the cap is said to.
"""

import argparse
import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from benchmarks.eigensolvers import SOLVERS, Answer, K
from benchmarks.harness import COLUMNS, QUICK, Budget, Entry, one_sentence, rows_of, run_rounds
from benchmarks.processes import limit_memory
from benchmarks.workloads import gpt, mlp
from benchmarks.workloads.base import Workload


@dataclass(frozen=True)
class Case:
    """A workload, how accurate answers should be, and how many seeds products are counted for."""

    build: Callable[..., Workload]
    accuracy: float
    seeds: int


# The accuracy that hessian-eigenthings aims at if it is not told otherwise; a tenth of it where that takes too long.
CASES = {"digits": Case(mlp.build_trained_digits, 1e-4, 5), "gpt": Case(gpt.build, 1e-3, 2)}

BASELINE = "hesse"
# Eigenvalues that differ by more than that part are not the same ones, so that one is missing.
SAME = 1e-3


@dataclass(frozen=True)
class Truth:
    """The eigenvalues by ARPACK in float64, far more accurate, with the products of PyTorch's own double backward."""

    accuracy: float
    product: Callable[[Tensor], Tensor]
    values: Any

    @staticmethod
    def of(workload: Workload, accuracy: float) -> "Truth":
        """For a workload in float64."""
        leaves = [leaf.detach().requires_grad_() for leaf in workload.leaves]
        gradient = torch.autograd.grad(workload.on_leaves(*leaves), leaves, create_graph=True)

        def product(row: Tensor) -> Tensor:
            parts = torch.autograd.grad(gradient, leaves, workload.split(row), retain_graph=True)
            return torch.cat([part.flatten() for part in parts])

        n = workload.num_inputs
        operator = scipy.sparse.linalg.LinearOperator(
            (n, n), matvec=lambda v: product(torch.from_numpy(v.ravel())).numpy(), dtype=np.float64
        )
        # More than are judged, so that the last ones are not copies that one vector cannot see.
        start = np.random.default_rng(0).standard_normal(n)
        values = scipy.sparse.linalg.eigsh(
            operator, K + 4, which="LA", ncv=min(n, 80), tol=1e-3 * accuracy, v0=start, return_eigenvectors=False
        )
        return Truth(accuracy, product, np.sort(values)[::-1][:K])

    def worst(self, answer: Answer) -> float:
        """The largest residual relative to its eigenvalue; infinite where an eigenvalue is missing."""
        residuals = []
        for value, vector in zip(np.asarray(answer.values, dtype=float), answer.vectors.double(), strict=True):
            residual = self.product(vector) - float(value) * vector
            residuals.append(float(residual.norm() / vector.norm()) / abs(float(value)))
        found = np.sort(np.asarray(answer.values, dtype=float))[::-1]
        missing = not np.allclose(found, self.values, rtol=SAME, atol=0)
        return math.inf if missing or not np.isfinite(residuals).all() else max(residuals)


def least_effort(name: str, workload: Workload, truth: Truth, cap: float) -> tuple[dict[str, Any], Any]:
    """The first attempt that is accurate, or why there is none; and the call that repeats it."""
    best, before, total = math.inf, 0.0, 0.0
    try:
        for label, ask in SOLVERS[name](workload, truth.accuracy):
            start = time.perf_counter()
            answer = ask(0)
            took = time.perf_counter() - start
            total += took
            worst = truth.worst(answer)
            best = min(best, worst)
            if worst <= truth.accuracy:
                row = {"effort": label, "residual": worst, "products": answer.products, "looking": answer.looking}
                return {**row, "attempts_seconds": total}, functools.partial(ask, 0)
            # The next one takes longer by what this one took longer than the one before, or so.
            if took * max(1.0, min(4.0, took / before if before else 1.0)) > cap:
                break
            before = took
    except Exception as error:
        return {"problem": one_sentence(error)}, None
    reached = (
        f"an eigenvalue was missing, or off by more than {SAME:g}"
        if math.isinf(best)
        else f"the best residual was {best:.1e}"
    )
    return {"problem": f"Not reached in {cap:.0f} s a run: {reached}."}, None


def measure(workload: Workload, truth: Truth, budget: Budget, cap: float, seeds: int) -> dict[str, Any]:
    """The row of everybody, the timed ones with seconds and how they compare with hesse."""
    rows, entries = {}, []
    for name in SOLVERS:
        rows[name], ask = least_effort(name, workload, truth, cap)
        if ask is not None:
            entries.append(Entry(name, SimpleNamespace(top=ask), "top"))
    judge = SimpleNamespace(error=lambda prepared, column, answer: truth.worst(answer), tolerance=truth.accuracy)
    run_rounds(entries, judge, budget, time.perf_counter)
    for entry, row in zip(entries, rows_of(entries, BASELINE), strict=True):
        rows[entry.name] |= row
    return {
        "name": workload.name,
        "title": workload.title,
        "accuracy": truth.accuracy,
        "values": truth.values.tolist(),
        "solvers": rows,
        "products": products(workload, truth, seeds),
    }


def products(workload: Workload, truth: Truth, seeds: int) -> dict[str, Any]:
    """How many products hesse and ARPACK take for the same accuracy with the same operator, by seeds."""
    found: dict[str, Any] = {}
    for name in ("hesse", "SciPy on hesse's operator"):
        counts = []
        for seed in range(seeds):
            answers = (ask(seed) for _, ask in SOLVERS[name](workload, truth.accuracy))
            answer = next((each for each in answers if truth.worst(each) <= truth.accuracy), None)
            if answer is not None:
                counts.append((answer.products, answer.looking))
        found[name] = {"search": [made - looked for made, looked in counts], "looking": [each for _, each in counts]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the ten largest eigenvalues of one workload's Hessian.")
    parser.add_argument("workload", choices=CASES)
    parser.add_argument("--seconds", type=float, default=120, help="for the rounds")
    parser.add_argument("--cap", type=float, default=60, help="seconds that a run may take")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    arguments = parser.parse_args()
    limit_memory()
    case = CASES[arguments.workload]
    truth = Truth.of(case.build(torch.float64, arguments.quick), case.accuracy)
    # One share of the harness's budget is what a column gets.
    budget = Budget(seconds=len(COLUMNS) * arguments.seconds, min_rounds=2, max_rounds=15)
    workload = case.build(quick=arguments.quick)
    result = measure(workload, truth, QUICK if arguments.quick else budget, arguments.cap, case.seeds)
    print(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
