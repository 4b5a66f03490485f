"""A cubic of ten elements: nothing but what a call costs around the arithmetic, the worst case for checks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.workloads.base import Workload, draw_rows


def cubic(x: Any) -> Any:
    return (x**3).sum()


def jax_twin() -> Callable[..., Any]:
    return cubic


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    inputs: Tensor = torch.randn(10, generator=torch.Generator().manual_seed(0)).to(dtype)
    return Workload(
        name="cubic",
        title="cubic, n = 10 (the worst case)",
        func=cubic,
        inputs=inputs,
        rows=draw_rows(10, dtype),
        jax_twin=jax_twin,
    )
