"""Right-hand sides as they come: structured like the inputs, flat, or a matrix of columns; and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesse._operators.operator import Operator


class RightHandSides:
    """Vectors of an operator's space as columns.

    Args:
        question: whose argument it is.
        operator: a symmetric operator.
        name: the argument's name.
        b: a vector structured like ``operator.domain``, a flat one (n,), or columns (n, k).

    Attributes:
        columns: (n, k), with the history that ``b`` has.
        restore: columns of another matrix like this one, in the structure that ``b`` has.
        restore_one: one column (n, 1), in the structure that one vector has.
    """

    def __init__(self, question: str, operator: Operator, name: str, b: Any) -> None:
        domain = operator.domain
        self.restore: Callable[[Tensor], Any]
        if domain is not None and (not isinstance(b, Tensor) or domain.holds(b)):
            self.columns = domain.flatten(b).to(operator.dtype).unsqueeze(-1)
            self.restore = lambda columns: domain.unflatten(columns.squeeze(-1))
        elif not isinstance(b, Tensor):
            raise TypeError(
                f"{name} given to {question} should be a tensor of shape ({operator.shape[1]},) or"
                f" ({operator.shape[1]}, k) but is {type(b)}."
            )
        elif b.dim() == 1:
            self.columns = operator.check_columns(b.unsqueeze(-1))
            self.restore = _flat
        else:
            self.columns = operator.check_columns(b)
            self.restore = _columns
        self.restore_one = self.restore if self.restore is not _columns else _flat
        if not bool(torch.isfinite(self.columns).all()):
            raise ValueError(f"{name} given to {question} holds entries that are not finite.")


def _columns(columns: Tensor) -> Tensor:
    return columns


def _flat(columns: Tensor) -> Tensor:
    return columns.squeeze(-1)
