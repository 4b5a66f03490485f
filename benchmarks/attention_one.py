"""Attention over one length, in a process of its own: times of all contestants, or the peak of memory of one.

python -m benchmarks.attention_one LENGTH --rounds 7
python -m benchmarks.attention_one LENGTH --memory NAME
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import hesse
from benchmarks.memory_one import peak_mib, reset_peak
from benchmarks.processes import limit_memory

HEADS, SIZE = 4, 64
# From here on one matrix of scores of plain attention is 4 GiB, and a product holds a dozen of them.
TOO_LONG_FOR_PLAIN = 16384
BASELINE = "plain, lone"
TOLERANCE = 1e-4

Leaves = tuple[Tensor, ...]


def func(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (F.scaled_dot_product_attention(query, key, value, is_causal=True) ** 2).sum()


def draw(length: int, seed: int, dtype: torch.dtype = torch.float32) -> Leaves:
    """Queries, keys and values, or a vector like them, drawn in float64 whatever the dtype."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, HEADS, length, SIZE)
    return tuple([torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)])


def plain(product: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return product()

    return call


def contestants(x: Leaves, v: Leaves) -> dict[str, Callable[[], Callable[[], Any]]]:
    """By name, what prepares a contestant: it returns the call to be timed."""

    def plain_replay() -> Callable[[], Any]:
        with sdpa_kernel(SDPBackend.MATH):
            leaves = [leaf.clone().requires_grad_() for leaf in x]
            gradient = torch.autograd.grad(func(*leaves), leaves, create_graph=True)
        return lambda: torch.autograd.grad(gradient, leaves, v, retain_graph=True)

    def hesse_replay() -> Callable[[], Any]:
        operator = hesse.Hessian(func, x)
        return lambda: operator @ v

    return {
        BASELINE: lambda: plain(lambda: torch.autograd.functional.vhp(func, x, v)[1]),
        "plain, replay": plain_replay,
        "hesse, lone": lambda: lambda: hesse.vhp(func, x, v)[1],
        "hesse, replay": hesse_replay,
    }


def able(length: int) -> list[str]:
    """The contestants that a length is not too long for."""
    names = list(contestants((), ()))
    return [name for name in names if not name.startswith("plain") or length < TOO_LONG_FOR_PLAIN]


def difference_of_gradients(length: int, step: float = 1e-4) -> Leaves:
    """The product in float64 from two gradients of PyTorch's fused attention, which need no second derivative."""
    x, v = draw(length, 0, torch.float64), draw(length, 1, torch.float64)

    def gradient(shift: float) -> Leaves:
        leaves = [(leaf + shift * entry).requires_grad_() for leaf, entry in zip(x, v, strict=True)]
        return torch.autograd.grad(func(*leaves), leaves)

    return tuple([(a - b) / (2 * step) for a, b in zip(gradient(step), gradient(-step), strict=True)])


def check(name: str, product: Leaves, expected: Leaves) -> float:
    """The relative error of the worst leaf; a wrong answer ends the process, since its time would mean nothing."""
    error = max(
        float((entry.double() - right).norm() / right.norm()) for entry, right in zip(product, expected, strict=True)
    )
    if not error <= TOLERANCE:
        raise SystemExit(f"The answer of {name} is wrong: the relative error is {error:.1e}.")
    return error


def measure_times(length: int, rounds: int) -> dict[str, Any]:
    """Times in turns, round by round; a speedup is the median over rounds of each round's own ratio."""
    x, v = draw(length, 0), draw(length, 1)
    expected = difference_of_gradients(length)
    prepare = contestants(x, v)
    errors, seconds = {}, {}
    for name in able(length):
        errors[name], seconds[name] = check(name, prepare[name]()(), expected), []
    for _ in range(rounds):
        for name in able(length):
            # Prepared for each turn: what one contestant keeps would be memory the next one lacks.
            call = prepare[name]()
            gc.collect()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
            del call
    base = seconds.get(BASELINE)
    rows = {
        name: {
            "relative_error": errors[name],
            "seconds": times,
            "median_seconds": median(times),
            "speedup": median([a / b for a, b in zip(base, times, strict=True)]) if base else None,
        }
        for name, times in seconds.items()
    }
    return {"contestants": rows}


def measure_memory(length: int, name: str) -> dict[str, float]:
    """How far the peak of the resident set lies above what was resident with the point and the vector, in MiB."""
    # What PyTorch loads when it is first used is nobody's memory.
    contestants(draw(64, 0), draw(64, 1))[name]()()
    prepare = contestants(draw(length, 0), draw(length, 1))[name]
    reset_peak()
    before = peak_mib()
    prepare()()
    return {"extra_mib": peak_mib() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure attention over one length.")
    parser.add_argument("length", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=list(contestants((), ())))
    arguments = parser.parse_args()
    limit_memory()
    if arguments.memory:
        print(json.dumps(measure_memory(arguments.length, arguments.memory)))
    else:
        print(json.dumps(measure_times(arguments.length, arguments.rounds), allow_nan=False))


if __name__ == "__main__":
    main()
