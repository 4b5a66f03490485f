"""Functions that replace what they read, instead of writing into it: each point is one evaluation."""

from __future__ import annotations

import collections
import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize import engines

from . import programs

DOUBLE = torch.float64
X = torch.tensor([0.5, 1.0, -1.5], dtype=DOUBLE)
V = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)


def running_mean(held: types.SimpleNamespace) -> Callable[[Tensor], Tensor]:
    """Σ(x - m)⁴, with m half of what it was and the sum of x."""

    def func(x: Tensor) -> Tensor:
        held.mean = 0.5 * held.mean + x.detach().sum()
        return ((x - held.mean) ** 4).sum()  # type: ignore[no-any-return]  # of a namespace

    return func


@pytest.mark.parametrize("verify", [True, False])
def test_a_tensor_that_is_replaced_is_carried_from_point_to_point(verify: bool) -> None:
    held = types.SimpleNamespace(mean=torch.zeros((), dtype=DOUBLE))
    H, mean = programs.hessian(running_mean(held), X, verify=verify), X.sum()
    for i in range(1, 7):
        H, mean = H.at(X + i), 0.5 * mean + (X + i).sum()
        torch.testing.assert_close(H @ V, 12 * (X + i - mean) ** 2 * V)
        torch.testing.assert_close(held.mean, mean)


def test_lone_products_carry_it_too() -> None:
    held = types.SimpleNamespace(mean=torch.zeros((), dtype=DOUBLE))
    mean = torch.zeros((), dtype=DOUBLE)
    with programs.running(programs.EAGER):
        product = hesse.func.hvp(running_mean(held), engine="compiled")
        for i in range(6):
            mean = 0.5 * mean + (X + i).sum()
            torch.testing.assert_close(product(X + i, V), 12 * (X + i - mean) ** 2 * V)


def test_gradients_to_train_on_refuse_it() -> None:
    held = types.SimpleNamespace(mean=torch.zeros((), dtype=DOUBLE))
    with programs.running(programs.EAGER), pytest.raises(hesse.CaptureError, match="cannot take this function"):
        hesse.func.grad(running_mean(held), engine="compiled")(X)
    assert type(held.mean) is Tensor


def test_a_flag_that_is_turned_at_each_evaluation_is_turned_at_each_point() -> None:
    held = types.SimpleNamespace(is_even=False)

    def func(x: Tensor) -> Tensor:
        held.is_even = not held.is_even
        return (x**4).sum() if held.is_even else (x**3).sum()

    H = programs.hessian(func, X)
    for i in range(1, 8):
        H = H.at(X + i)
        torch.testing.assert_close(H @ V, (6 * (X + i) if i % 2 else 12 * (X + i) ** 2) * V)


def test_what_a_function_keeps_of_its_last_evaluation_is_of_the_last_point() -> None:
    held = types.SimpleNamespace(last=None)

    def func(x: Tensor) -> Tensor:
        held.last = x.detach()
        return (x**3).sum()

    H = programs.hessian(func, X)
    for i in range(1, 6):
        H = H.at(X + i)
        torch.testing.assert_close(H @ V, 6 * (X + i) * V)
        torch.testing.assert_close(held.last, X + i)


def test_what_is_kept_from_the_first_evaluation_on_costs_no_further_one() -> None:
    held, runs = types.SimpleNamespace(weights=None), collections.deque[bool]()

    def func(x: Tensor) -> Tensor:
        if type(x) is Tensor:
            runs.append(True)
        if held.weights is None:
            held.weights = torch.arange(3, dtype=DOUBLE)
        return (held.weights * x**3).sum()  # type: ignore[no-any-return]  # of a namespace

    H = programs.hessian(func, X)
    for i in range(1, 6):
        H = H.at(X + i)
        torch.testing.assert_close(H @ V, 6 * torch.arange(3) * (X + i) * V)
    # The second program, which has the tensor, is compared at its points 1, 2 and 4.
    assert (H.explain().programs, len(runs)) == (2, 4)


def test_auto_goes_on_with_the_tape_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "FIXED_PRICE", 0.0)
    monkeypatch.setattr(engines, "NODE_PRICE", 0.0)
    held, mean = types.SimpleNamespace(mean=torch.zeros((), dtype=DOUBLE)), X.sum()
    H = programs.hessian(running_mean(held), X, engine="auto", expect=10**6)
    with pytest.warns(UserWarning, match="goes on with the tape: it changes what it reads"):
        torch.testing.assert_close(H @ V, 12 * (X - mean) ** 2 * V)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(1, 5):
            H, mean = H.at(X + i), 0.5 * mean + (X + i).sum()
            torch.testing.assert_close(H @ V, 12 * (X + i - mean) ** 2 * V)


def test_a_tensor_that_is_written_into_may_not_become_another_input() -> None:
    held = types.SimpleNamespace(count=torch.zeros(3, dtype=DOUBLE), shift=torch.zeros(3, dtype=DOUBLE))

    def func(x: Tensor) -> Tensor:
        held.count.add_(1)
        return ((x + held.shift) ** 3).sum()

    H = programs.hessian(func, X).at(X + 1)
    assert torch.equal(H.gradient, 3 * (X + 1) ** 2)
    held.shift = held.count[:]
    with pytest.raises(hesse.CaptureError, match="it writes into a tensor that shares memory with another"):
        H.at(X)
