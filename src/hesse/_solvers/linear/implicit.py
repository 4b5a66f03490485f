"""The derivative of a solution by what its equation is made of, without the steps that led to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hesse._operators.operator import Operator


def connect(operator: Operator, B: Tensor, X: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
    r"""X, connected to B and to what the symmetric operator closes over: :math:`dX = A^{-1} (dB - dA\, X)`.

    The residual B − A·X at the fixed X has just that bracket for its derivative, so one backward through it follows
    one solve with the cotangent.

    Args:
        operator: A, whose products carry history.
        B: right-hand sides, with history.
        X: solutions, without.
        adjoint: solves A·W = G.

    Source: Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022, section 2.
    """
    with torch.enable_grad():
        residual = B - operator.matmat(X.detach())
        if not residual.requires_grad:
            return X
        connected: Tensor = _Implicit.apply(residual, X.detach(), adjoint)  # type: ignore[no-untyped-call]  # torch's own
        return connected


class _Implicit(torch.autograd.Function):
    """x ↦ x, with the derivative A⁻¹ by the residual."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, X: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.adjoint = adjoint
        ctx.save_for_backward(residual)
        return X.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            W = ctx.adjoint(cotangent.detach())
        (residual,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            W = _Once.apply(W, residual, cotangent)  # type: ignore[no-untyped-call]  # torch's own
        return W, None, None


class _Once(torch.autograd.Function):
    """W itself, but its derivative, which would miss that X moves as well, is refused."""

    @staticmethod
    def forward(ctx: Any, W: Tensor, residual: Tensor, cotangent: Tensor) -> Tensor:
        return W.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        raise RuntimeError(
            "A solution of hesse.solve has first derivatives only, and a second one was asked for. Differentiate the"
            " equation once by hand, and solve that."
        )
