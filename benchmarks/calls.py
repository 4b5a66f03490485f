"""How many calls of Python one product at a kept point makes, in how many files, and how deep; and what they take.

    python -m benchmarks.calls           the counts, which no clock disturbs
    python -m benchmarks.calls --time    beside them the time of a product, in units of autograd's own

The guard is left out of the counts: it asks each tensor of the point whether it has changed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import hesse
from benchmarks.workloads import mlp

HESSE = str(Path(hesse.__file__).parent)
GUARD = str(Path(HESSE, "_linearize", "guard.py"))


class Count(NamedTuple):
    """Of one call: functions of hesse that it calls, their files, and the frames down to ``autograd.grad``."""

    calls: int
    files: int
    frames: int


def count(call: Callable[[], Any]) -> Count:
    """What a call does; call it once before, so that nothing is loaded meanwhile."""
    stack: list[str] = []
    found: list[str] = []
    deepest = 0

    def watch(frame: Any, event: str, argument: object) -> None:
        nonlocal deepest
        if event == "call":
            file = frame.f_code.co_filename
            stack.append(file)
            # What autograd.grad calls in turn.
            if frame.f_code.co_name == "_engine_run_backward":
                deepest = max(deepest, sum(entry.startswith(HESSE) for entry in stack))
            if file.startswith(HESSE) and GUARD not in stack:
                found.append(file)
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return Count(len(found), len(set(found)), deepest)


def of_leaves(number: int) -> Callable[[], Any]:
    """A product of a Hessian by so many leaves, on the tape, with a flat vector."""
    leaves = {f"leaf {place}": torch.randn(3, 4) for place in range(number)}
    H = hesse.Hessian(lambda x: sum((leaf**3).sum() for leaf in x.values()), leaves, engine="tape")
    v = torch.randn(H.shape[1])
    return lambda: H @ v


def over_data(kind: Any) -> Callable[[], Any]:
    """A product over two batches that are kept."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    data = [(torch.randn(10, 4), torch.randint(3, (10,))) for _ in range(2)]
    H = kind(net, nn.CrossEntropyLoss(), data, engine="tape")
    v = torch.randn(H.shape[1])
    H @ v
    return lambda: H @ v


COUNTED: dict[str, Callable[[], Callable[[], Any]]] = {
    "Hessian by 4 leaves": lambda: of_leaves(4),
    "Hessian by 5 leaves": lambda: of_leaves(5),
    "LossHessian over 2 batches": lambda: over_data(hesse.LossHessian),
    "GaussNewton over 2 batches": lambda: over_data(hesse.GaussNewton),
}


def overhead(rounds: int = 300) -> float:
    """The time of a product of the digits network with all its rows, in units of split, ``autograd.grad`` and cat."""
    workload = mlp.build_digits(torch.float32, False)
    H = hesse.Hessian(workload.func, workload.inputs, engine="tape")
    v = torch.randn(H.shape[1])
    leaves = [leaf.detach().requires_grad_() for leaf in H.domain.leaves]
    gradients = torch.autograd.grad(workload.func(workload.rebuild(leaves)), leaves, create_graph=True)
    lengths = [leaf.numel() for leaf in leaves]

    def plain() -> Tensor:
        vectors = [part.view_as(leaf) for part, leaf in zip(v.split(lengths), leaves, strict=True)]
        return torch.cat([p.reshape(-1) for p in torch.autograd.grad(gradients, leaves, vectors, retain_graph=True)])

    ways: dict[str, tuple[Callable[[], Tensor], list[float]]] = {"hesse": (lambda: H @ v, []), "plain": (plain, [])}
    for _ in range(rounds):
        for call, seconds in ways.values():
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return statistics.median(ways["hesse"][1]) / statistics.median(ways["plain"][1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the calls of one product.")
    parser.add_argument("--time", action="store_true", help="measure the time of a product as well")
    arguments = parser.parse_args()
    for name, make in COUNTED.items():
        call = make()
        call()
        calls, files, frames = count(call)
        print(f"{name}: {calls} calls in {files} files, {frames} frames to autograd.grad")
    if arguments.time:
        print(f"digits, all rows: {overhead():.3f} of split, autograd.grad and cat")


if __name__ == "__main__":
    main()
