r"""Rectifiers of a norm that is zero, such as :math:`\operatorname{relu}(\lVert x \rVert)^2`.

A norm is never negative, so a rectifier is the identity there. PyTorch takes the slope of the negative side at zero, so
that the second derivative of the square becomes zero. The rules of ``vanishing.py`` ask for these at the first norm
that vanishes: until then rectifiers stay PyTorch's.

Source: elementary.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesse._rules.batches import samples
from hesse._rules.scope import intercept, operator_of

_VIEWS = ("Clone", "View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Expand", "Alias")
# PyTorch's own nodes have numbers behind their names; inside of transforms nodes of functions are generated.
_NORMS = re.compile(r"(Vmapped)*(LinalgVectorNorm|Abs)(Generated)?Backward")
_ENOUGH = 8


@functools.cache
def install() -> None:
    """Intercept the rectifiers, once."""
    for name in ("relu", "relu_", "leaky_relu", "leaky_relu_", "hardtanh", "hardtanh_"):
        intercept(f"aten::{name}", _kernel(operator_of(f"aten::{name}"), name))


def _kernel(operator: Any, name: str) -> Callable[..., Tensor]:
    in_place = name.endswith("_")

    def rectify(x: Tensor, *bounds: Any, **others: Any) -> Tensor:
        if torch.is_grad_enabled() and _is_norm(samples(x)):
            if not name.startswith("hardtanh"):
                return x if in_place else x.clone()
            if bounds[:1] == (0,):
                bounds = (-1.0, *bounds[1:])
        rectified: Tensor = operator(x, *bounds, **others)
        return rectified

    return rectify


def _is_norm(x: Tensor) -> bool:
    """Whether these are the norms of a rule that are followed, or a view of them."""
    node: Any = x.grad_fn
    for _ in range(_ENOUGH):
        if node is None:
            return False
        name = node.name()
        if _NORMS.fullmatch(name):
            return True
        if not name.startswith(_VIEWS):
            return False
        node = node.next_functions[0][0]
    return False
