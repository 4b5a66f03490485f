"""Right-hand sides as they come: structured like the inputs, flat, or a matrix of columns; and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._base import trees
from hesse._operators.conversions import to_numpy, to_tensor
from hesse._operators.operator import Operator


class RightHandSides:
    """Vectors of an operator's space as columns.

    Args:
        question: whose argument it is.
        operator: a symmetric operator.
        name: the argument's name.
        b: a vector structured like ``operator.domain``, a flat one (n,), or columns (n, k); or one of NumPy's.

    Attributes:
        columns: (n, k), with the history that ``b`` has.
        restore: columns of another matrix like this one, in the structure that ``b`` has.
        restore_one: one column (n, 1), in the structure that one vector has.
    """

    def __init__(self, question: str, operator: Operator, name: str, b: Any) -> None:
        domain = operator.domain
        self.restore: Callable[[Tensor], Any]
        is_array = isinstance(b, np.ndarray)
        if is_array:
            b = to_tensor(operator, b)
        if domain is not None and (not isinstance(b, Tensor) or domain.holds(b)):
            self.columns = domain.flatten(b).to(operator.dtype).unsqueeze(-1)
            self.restore = lambda columns: domain.unflatten(columns.squeeze(-1))
        elif not isinstance(b, Tensor):
            raise TypeError(
                f"{name} given to {question} should be a tensor of shape ({operator.length},) or"
                f" ({operator.length}, k) but is {type(b)}."
            )
        elif b.dim() == 1:
            self.columns = operator.check_columns(b.unsqueeze(-1))
            self.restore = _flat
        else:
            self.columns = operator.check_columns(b)
            self.restore = _columns
        self.restore_one: Callable[[Tensor], Any] = self.restore if self.restore is not _columns else _flat
        if is_array:
            self.restore, self.restore_one = [_as_arrays(way) for way in (self.restore, self.restore_one)]
        if bool(operator.total(~torch.isfinite(self.columns).all(), "max")):
            raise ValueError(f"{name} given to {question} holds entries that are not finite.")


def _as_arrays(restore: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    return lambda columns: trees.map_tensors(to_numpy, restore(columns))


def _columns(columns: Tensor) -> Tensor:
    return columns


def _flat(columns: Tensor) -> Tensor:
    return columns.squeeze(-1)
