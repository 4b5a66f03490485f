"""The Rosenbrock function: one long vector, elementwise operations only."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.workloads.base import Workload, draw_rows


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def jax_twin() -> Callable[..., Any]:
    return rosenbrock


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    size = 1000 if quick else 1_000_000
    inputs: Tensor = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Workload(
        name="rosenbrock",
        title=f"Rosenbrock, n = {size:.0e}".replace("e+0", "e"),
        func=rosenbrock,
        inputs=inputs,
        rows=draw_rows(size, dtype),
        jax_twin=jax_twin,
    )
