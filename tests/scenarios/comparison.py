"""Compare a result with a reference, relative to the size of what it was made from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .flat import leaves_of

FLOOR = 1e-3
"""Size below which a reference counts as this large: zero Hessians are compared absolutely."""


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, size: float | None = None) -> None:
    """Every entry within ``tolerance`` of ``size``, by default that of the largest expected entry."""
    assert actual.shape == expected.shape
    assert not actual.requires_grad
    if size is None:
        size = float(expected.abs().max()) if expected.numel() else 0.0
    difference = (actual.double() - expected.double()).abs()
    # Written so that NaN fails.
    assert torch.all(difference <= tolerance * max(size, FLOOR)), f"off by {difference.max():.1e} of {size:.1e}"


def assert_product(actual: Tensor, matrix: Tensor, vector: Tensor, tolerance: float) -> None:
    """``matrix @ vector``, where rounding is relative to the entries that are summed."""
    size = float((matrix.abs() @ vector.abs()).max()) if matrix.numel() and vector.numel() else 0.0
    assert_close(actual, matrix @ vector, tolerance, size)


def assert_structured_like(actual: Any, inputs: Any) -> None:
    """The same containers, shapes and dtypes."""
    # A parameter goes in, a plain tensor comes out.
    assert type(actual) is (Tensor if isinstance(inputs, Tensor) else type(inputs))
    for result, leaf in zip(leaves_of(actual), leaves_of(inputs), strict=True):
        assert (result.shape, result.dtype) == (leaf.shape, leaf.dtype)


def random_vectors(n: int, count: int) -> Tensor:
    """``count`` standard normal vectors as rows, the same for every engine."""
    return torch.randn(count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
