"""Scattering by an index that is shorter than its source: PyTorch's gradient by the source has the index's shape.

It raises for this. Here the source is cut to what is scattered, which is a view with a derivative.

Source: https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_add_.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hesse._rules.rule import operator_of
from hesse._rules.scope import intercept


def _kernel(operator: Any) -> Callable[..., Tensor]:
    def scatter(x: Tensor, dim: int, index: Tensor, src: Tensor, *others: Any, **options: Any) -> Tensor:
        if src.requires_grad and index.shape != src.shape:
            src = src[tuple([slice(size) for size in index.shape])]
        scattered: Tensor = operator(x, dim, index, src, *others, **options)
        return scattered

    return scatter


for _name in ("scatter_add", "scatter.src", "scatter_reduce.two"):
    _packet, _, _overload = _name.partition(".")
    for _full in (f"aten::{_name}", f"aten::{_packet}_.{_overload}".rstrip(".")):
        if (_operator := operator_of(_full)) is not None:
            intercept(_full, _kernel(_operator))
