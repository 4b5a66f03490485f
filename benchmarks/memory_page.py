"""The figures of docs/memory.md: the digits network of examples/digits.py, and what its products take.

    OMP_NUM_THREADS=1 python -m benchmarks.memory_page

Bytes are those of the allocator's events; they depend on the release of PyTorch and not on the machine.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hesse
from hesse._base.memory import readable
from hesse._linearize import peak

DIGITS = Path(__file__).parents[1] / "examples" / "digits.py"
CPU = torch.device("cpu")


def problem() -> hesse.Problem:
    spec = importlib.util.spec_from_file_location("digits", DIGITS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problem()


def taken(call: Callable[[], Any]) -> int:
    """Bytes that a call adds at its peak; called once before, since a first call loads and measures."""
    call()
    _, most = peak.during(call, CPU)
    assert most is not None
    return most


def main() -> None:
    digits = problem()
    H = hesse.Hessian(digits.func, digits.inputs)
    V = H.randn(64, rng=0)
    one_by_one = hesse.Hessian(digits.func, digits.inputs, batching="loop")
    rows = [
        ("the point, kept", H.explain().bytes_kept),
        ("one product", taken(lambda: H @ V[:, 0])),
        ("64 products, one by one", taken(lambda: one_by_one @ V)),
    ]
    for memory in ("25MiB", "50MiB", "100MiB"):
        B = hesse.Hessian(digits.func, digits.inputs, batching="vmap", memory=memory)
        most = taken(lambda B=B: B @ V)
        rows.append((f'64 products in batches, memory="{memory}", {B.explain().chunk} at once', most))
    rows.append(("the dense Hessian, its own size", H.shape[0] ** 2 * H.dtype.itemsize))
    for what, size in rows:
        print(f"{what:58} {readable(size):>10}")
    for call in (
        lambda: hesse.Hessian(digits.func, digits.inputs, memory="4MiB") @ V,
        lambda: hesse.Hessian(digits.func, digits.inputs, memory="100MiB").to_dense(),
    ):
        try:
            call()
        except hesse.MemoryBudgetError as error:
            print(f"MemoryBudgetError: {error}")


if __name__ == "__main__":
    main()
