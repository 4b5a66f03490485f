"""A language model with 1e8 parameters on a CPU: what products and questions take, in seconds and in vectors.

    python -m benchmarks.large                              # every row; writes benchmarks/results/large.json
    python -m benchmarks.large --row trace --row diagonal   # these rows anew, beside those that are there
    python -m benchmarks.large --quick --output /tmp/large.json

Each row is a fresh process, and is written as soon as it is there. The whole is meant to take less than a quarter of an
hour on two quiet cores with 24 GiB of memory.
"""

import argparse
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from benchmarks import environment, results_file
from benchmarks.memory_one import peak_mib, reset_peak
from benchmarks.processes import limit_memory, run_fresh
from benchmarks.views_large import large
from benchmarks.workloads.gpt import GPT
from hesse._linearize import peak

# Layers, width, tokens of a sequence, words; sequences.
SIZES = {"full": (8, 768, 48, 30_000), "quick": (2, 64, 16, 500)}
SEQUENCES = 2
ROUNDS, PRODUCTS = 5, 50
# glibc gives no block back.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
# How a peak is measured, and the process's variables. What the profiler notes of each block would lie between kept
# pages and hold them apart, so where it counts none are kept.
WAYS = {"resident": {}, "allocated": {"MALLOC_MMAP_THRESHOLD_": str(2**25)}}
ROWS = ("product", "beside JAX", "fifty products", "eigsh, k=1", "trace", "diagonal", "cg", "minres")
# A model with most of its parameters in an embedding and a head, at a kept point.
WORKLOAD = "gpt-words"
CONTESTANTS = ("torch.autograd.functional", "hesse", "hesse compiled", "JAX linearized")
# The vectors that each question is given.
GIVEN = {"eigsh, k=1": 12, "trace": 4, "diagonal": 4, "cg": 6, "minres": 8}
TIMEOUT = 900


def problem(quick: bool) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]:
    """The model, its loss, and one batch."""
    layers, width, length, words = SIZES["quick" if quick else "full"]
    torch.manual_seed(0)
    model = GPT(layers, width, length, words)
    tokens = torch.randint(words, (SEQUENCES, length + 1))
    return model, F.cross_entropy, (tokens[:, :-1], tokens[:, 1:].flatten())


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident_mib() -> float:
    """The resident set now, with what the allocator keeps."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def product(quick: bool) -> dict[str, Any]:
    """One product of a kept point beside PyTorch's backward through the kept gradient, by turns."""
    model, loss, (tokens, targets) = problem(quick)
    H = hesse.LossHessian(model, loss, (tokens, targets))
    parameters = dict(model.named_parameters())
    v = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    gradient = torch.autograd.grad(loss(model(tokens), targets), list(parameters.values()), create_graph=True)

    def bare() -> list[Tensor]:
        return list(torch.autograd.grad(gradient, list(parameters.values()), list(v.values()), retain_graph=True))

    ours, theirs = H @ v, bare()
    error = max(float((ours[name] - other).norm() / other.norm()) for name, other in zip(v, theirs, strict=True))
    del ours, theirs
    rounds = [(seconds(lambda: H @ v), seconds(bare)) for _ in range(ROUNDS)]
    return {
        "parameters": H.shape[0],
        "seconds": statistics.median(hesse_seconds for hesse_seconds, _ in rounds),
        "bare": statistics.median(bare_seconds for _, bare_seconds in rounds),
        "ratio": statistics.median(one / other for one, other in rounds),
        "error": error,
    }


def fifty_products(quick: bool) -> dict[str, Any]:
    """The seconds of a question's products, and the resident set before and after."""
    H = hesse.LossHessian(*problem(quick))
    v = torch.ones(H.shape[0])
    H @ v
    gc.collect()
    before = resident_mib()
    taken = seconds(lambda: hesse.trace(H, method="hutchinson", tol=0, rng=0, max_products=PRODUCTS))
    gc.collect()
    return {"seconds": taken, "before": before, "after": resident_mib()}


def held(row: str, quick: bool, way: str) -> dict[str, Any]:
    """The vectors that a question holds at its peak beside its product: by the resident set, or by the allocator."""
    model, loss, data = problem(quick)
    A: hesse.Operator = hesse.LossHessian(model, loss, data)
    if row == "cg":
        # Positive definite.
        A = hesse.GaussNewton(model, loss, data).shift(0.1)
    n, vector = A.shape[0], 4 * A.shape[0]
    b = torch.ones(n)
    # Small matrices are beside the vectors.
    memory = GIVEN[row] * vector + vector // 10
    questions: dict[str, Callable[[], Any]] = {
        "eigsh, k=1": lambda: hesse.eigsh(A, 1, rng=0, memory=memory, max_products=10),
        "trace": lambda: hesse.trace(A, rng=0, memory=memory, max_products=8),
        "diagonal": lambda: hesse.diagonal(A, rng=0, memory=memory, max_products=8),
        "cg": lambda: hesse.solve(A, b, method="cg", memory=memory, max_products=8),
        "minres": lambda: hesse.solve(A, b, method="minres", memory=memory, max_products=8),
    }
    A @ b
    measured = resident_peak if way == "resident" else allocated
    beside = measured(lambda: A @ b)
    start = time.perf_counter()
    found = measured(questions[row])
    taken = time.perf_counter() - start
    given_before = row in ("cg", "minres")
    return {"seconds": taken, way: (found - beside) / vector + given_before}


def resident_peak(call: Callable[[], object]) -> float:
    """Bytes by which the resident set rises at most."""
    reset_peak()
    before = resident_mib()
    call()
    return (peak_mib() - before) * 2**20


def allocated(call: Callable[[], object]) -> float:
    """Bytes that the allocator hands out at most."""
    _, taken = peak.during(call, torch.device("cpu"))
    assert taken is not None
    return taken


def one(row: str, quick: bool, way: str) -> dict[str, Any]:
    warnings.simplefilter("ignore", hesse.ConvergenceWarning)
    if row == "product":
        return product(quick)
    return fifty_products(quick) if row == "fifty products" else held(row, quick, way)


def measure(row: str, quick: bool) -> dict[str, Any]:
    """A row, by fresh processes."""
    arguments = ["--one", row, *(["--quick"] if quick else [])]
    if row in GIVEN:
        by_way = [
            run_fresh("large", *arguments, "--way", way, timeout=TIMEOUT, variables=variables)
            for way, variables in WAYS.items()
        ]
        # The seconds are those without a profiler.
        return {"least": GIVEN[row], **by_way[1], **by_way[0]}
    if row == "beside JAX":
        return beside_jax(quick)
    found = run_fresh("large", *arguments, timeout=TIMEOUT)
    if row == "fifty products" and "seconds" in found:
        keeping = run_fresh("large", *arguments, timeout=TIMEOUT, variables=KEEPING)
        found |= {"keeping": keeping["seconds"]} if "seconds" in keeping else keeping
    return found


def beside_jax(quick: bool) -> dict[str, Any]:
    """Median seconds of a replay by each contestant, and again where the process gives no memory back."""
    arguments = [WORKLOAD, *CONTESTANTS, "--seconds", "60", *(["--quick"] if quick else [])]
    taken: dict[str, Any] = {}
    for name, variables in (("seconds", {}), ("keeping", KEEPING)):
        found = run_fresh("timing_one", *arguments, timeout=TIMEOUT, variables=variables)
        if "problem" in found:
            return found
        taken |= {"title": found["title"], name: {}}
        for contestant, result in found["contestants"].items():
            column = result["columns"].get("one", {})
            if result["problem"] or column.get("problem"):
                return {"problem": f"{contestant}: {result['problem'] or column['problem']}"}
            taken[name][contestant] = column["median_seconds"]
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure products and questions of a language model.")
    parser.add_argument("--row", action="append", choices=ROWS, help="this row alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--output", type=Path, default=results_file.FOLDER / "large.json")
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, default="resident", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        limit_memory()
        print(json.dumps(one(arguments.one, arguments.quick, arguments.way)))
        return
    if arguments.quick and arguments.output.parent == results_file.FOLDER:
        parser.error("--quick needs an --output outside of the results")
    earlier = results_file.read(arguments.output)["rows"] if arguments.output.exists() and arguments.row else {}
    results: dict[str, Any] = {"environment": environment.describe(), "rows": earlier}
    for row in arguments.row or ROWS:
        results["rows"][row] = measure(row, arguments.quick)
        results_file.write(arguments.output, results)
        print(f"{row}: {json.dumps(results['rows'][row])}", flush=True)
    print(large(results))


if __name__ == "__main__":
    main()
