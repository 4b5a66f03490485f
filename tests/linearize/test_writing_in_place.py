"""Functions that write in place: a backward that spoils what a second derivative needs is named, and so is its line."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse

DOUBLE = torch.float64


class Scale(torch.autograd.Function):
    """A square, whose backward writes into a cotangent after it was used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        cotangent = cotangent.clone()
        product = cotangent * x
        cotangent.mul_(x).mul_(2)
        return cotangent + 0 * product


def scaled(x: Tensor) -> Tensor:
    return Scale.apply(torch.tanh(x)).square().sum()  # type: ignore[no-any-return,no-untyped-call]  # no types there


LINE = f"{__file__}:{inspect.getsourcelines(scaled)[1] + 1}"
X = torch.tensor([0.3, -0.8, 1.2], dtype=DOUBLE)


def test_a_backward_in_place_is_refused_and_no_change_is_blamed() -> None:
    for H in (hesse.Hessian(scaled, X), hesse.Hessian(scaled, X).at(X)):
        with pytest.raises(hesse.NoDerivativeError, match="its backward writes in place") as caught:
            H @ X
        assert caught.value.place == LINE


def test_over_data_it_is_refused_too() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(X.clone())

        def forward(self, x: Tensor) -> Tensor:
            return Scale.apply(torch.tanh(x * self.weight))  # type: ignore[no-any-return,no-untyped-call]  # no types

    with pytest.raises(hesse.NoDerivativeError, match="its backward writes in place"):
        hesse.LossHessian(Layer(), nn.MSELoss(), (X[None], X[None])) @ X


def test_a_tensor_of_the_functions_own_that_was_changed_since_is_told_from_that() -> None:
    kept: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        kept.append(x.detach().exp())
        return (x**3 * kept[-1]).sum()

    H = hesse.Hessian(func, X)
    kept[-1].add_(1)
    with pytest.raises(hesse.StalePointError, match="has changed in place"):
        H @ X


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_whole_jacobians_of_functions_that_write_into_what_they_capture(strategy: str, vectorize: bool) -> None:
    if strategy == "forward-mode" and not vectorize:
        pytest.skip("the contract has no such mode")
    buffer, count = torch.zeros(3, dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)

    def func(x: Tensor) -> Tensor:
        buffer.copy_(x)
        buffer[1:].mul_(x[0])
        count.add_(1)
        return buffer.sin() * 2

    mixed = torch.tensor([1.0, X[0], X[0]], dtype=DOUBLE).diag()
    mixed[1:, 0] = X[1:]
    expected = 2 * torch.cat([X[:1], X[0] * X[1:]]).cos().diag() @ mixed
    found = hesse.functional.jacobian(func, X, strategy=strategy, vectorize=vectorize)
    torch.testing.assert_close(found, expected)
    assert count == 1
