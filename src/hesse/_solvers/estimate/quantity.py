"""What is sampled: the trace of a quadratic form, by its values at random vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from hesse._operators.operator import Operator


@dataclasses.dataclass(frozen=True)
class Quantity:
    r"""The trace :math:`\sum_j F(e_j)` of a quadratic form F that A's products give.

    Attributes:
        form: F(u) for each column u of a block, from the operator, the block U and A·U; float64 on the CPU.
        target: how far from the truth the trace may be, given an estimate of it.
        spread: the standard deviation of F(P·ω), P a projection away from a basis, as the distances of A's images from
            such bases foretell it.
        show: a trace and the half width of its interval, in words.
    """

    form: Callable[[Operator, Tensor, Tensor], Tensor]
    target: Callable[[float], float]
    spread: Callable[[Tensor], float]
    show: Callable[[float, float], str]
