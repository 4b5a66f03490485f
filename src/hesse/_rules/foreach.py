"""Operators on lists of tensors whose elements have rules: one tensor at a time, where a gradient may be asked for.

Source: elementary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesse._rules.scope import intercept, operator_of, put, put_back


def _one_by_one(operator: Any, each: Callable[..., Tensor]) -> Callable[..., Any]:
    def kernel(tensors: list[Tensor], *others: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return operator(tensors, *others, **kwargs)
        held = put(True)
        try:
            results = []
            for i, x in enumerate(tensors):
                along = [other[i] if isinstance(other, list | tuple) else other for other in others]
                results.append(each(x, *along, **kwargs))
        finally:
            put_back(held)
        return results if operator._schema.returns else None

    return kernel


for _name, _each in (
    ("aten::_foreach_abs", torch.abs),
    ("aten::_foreach_abs_", torch.abs_),
    ("aten::_foreach_norm.Scalar", torch.linalg.vector_norm),
    ("aten::_foreach_pow.List", torch.pow),
    ("aten::_foreach_pow_.List", Tensor.pow_),
):
    if (_operator := operator_of(_name)) is not None:
        intercept(_name, _one_by_one(_operator, _each))
