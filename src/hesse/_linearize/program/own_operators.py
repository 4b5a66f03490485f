"""Operators of hesse's own: Inductor calls them as they are, where it would rewrite PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library: Any = torch.library.Library("hesse", "FRAGMENT")  # type: ignore[no-untyped-call]  # PyTorch's has no types


def define(
    schema: str, values: Callable[..., Any], shapes: Callable[..., Any], batched: Callable[..., Any] | None = None
) -> torch._ops.OpOverload:
    """Define ``hesse::schema`` for the CPU.

    Args:
        schema: name, arguments and results.
        values: computes the results.
        shapes: results without values, from arguments without values.
        batched: the operator under ``torch.func.vmap``, called with ``(info, in_dims, *arguments)``.
    """
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, values, "CPU")
    torch.library.register_fake(f"hesse::{name}", shapes, lib=_library)
    if batched is not None:
        torch.library.register_vmap(f"hesse::{name}", batched, lib=_library)
    operator: torch._ops.OpOverload = getattr(torch.ops.hesse, name).default
    return operator
