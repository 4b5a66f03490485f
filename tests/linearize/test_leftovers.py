"""Functions that keep what they computed, in variables of any kind: no stand-in of a capture stays in them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize import engines

Function = Callable[[Tensor], Tensor]

KEPT: Tensor | None = None


class Holder:
    kept: Tensor | None = None


def in_global(x: Tensor) -> Tensor:
    global KEPT
    if KEPT is None:
        KEPT = x.exp()
    return (KEPT * x).sum()


def in_class(x: Tensor) -> Tensor:
    if Holder.kept is None:
        Holder.kept = x.exp()
    return (Holder.kept * x).sum()


def in_attribute(x: Tensor) -> Tensor:
    if not hasattr(in_attribute, "kept"):
        in_attribute.kept = x.exp()  # type: ignore[attr-defined]  # set on the function itself
    kept: Tensor = in_attribute.kept  # type: ignore[attr-defined]  # set on the function itself
    return (kept * x).sum()


def in_cell() -> Function:
    kept: Tensor | None = None

    def func(x: Tensor) -> Tensor:
        nonlocal kept
        if kept is None:
            kept = x.exp()
        return (kept * x).sum()

    return func


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from hesse._linearize.program import backends

    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)
    monkeypatch.setitem(globals(), "KEPT", None)
    monkeypatch.setattr(Holder, "kept", None)
    vars(in_attribute).clear()
    yield
    vars(in_attribute).clear()


@pytest.mark.parametrize("make", [lambda: in_global, lambda: in_class, lambda: in_attribute, in_cell])
def test_a_function_that_keeps_a_tensor_has_a_program_and_still_runs(make: Callable[[], Function]) -> None:
    func, x = make(), torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    H = hesse.Hessian(func, x, engine="compiled")
    # Of x·exp(x).
    torch.testing.assert_close(H.to_dense(), torch.diag((2 + x) * x.exp()))
    assert float(func(x).detach()) == pytest.approx(float((x * x.exp()).sum()))


def in_grad() -> tuple[Function, Callable[[], object]]:
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def func(x: Tensor) -> Tensor:
        (weight * x.detach()).sum().backward()  # type: ignore[no-untyped-call]  # no types there
        return (x * x.exp()).sum()

    return func, lambda: weight.grad


def in_attribute_of_tensor() -> tuple[Function, Callable[[], object]]:
    ones: Any = torch.ones(4, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        if not hasattr(ones, "kept"):
            ones.kept = 2 * ones - ones
        return (ones.kept * x * x.exp()).sum()  # type: ignore[no-any-return]  # an attribute of a user's

    return func, lambda: ones.kept


def in_array_of_objects() -> tuple[Function, Callable[[], object]]:
    held = np.empty(1, dtype=object)

    def func(x: Tensor) -> Tensor:
        if held[0] is None:
            held[0] = torch.ones(4, dtype=torch.float64)
        return (held[0] * x * x.exp()).sum()  # type: ignore[no-any-return]  # an entry of a user's

    return func, lambda: held[0]


def in_context() -> tuple[Function, Callable[[], object]]:
    held: contextvars.ContextVar[Tensor | None] = contextvars.ContextVar("held", default=None)

    def func(x: Tensor) -> Tensor:
        kept = held.get()
        if kept is None:
            kept = torch.ones(4, dtype=torch.float64)
            held.set(kept)
        return (kept * x * x.exp()).sum()

    return func, held.get


def in_thread() -> tuple[Function, Callable[[], object]]:
    held = threading.local()

    def func(x: Tensor) -> Tensor:
        if not hasattr(held, "kept"):
            held.kept = torch.ones(4, dtype=torch.float64)
        return (held.kept * x * x.exp()).sum()  # type: ignore[no-any-return]  # an attribute of a user's

    return func, lambda: held.kept


@pytest.mark.parametrize("make", [in_grad, in_attribute_of_tensor, in_array_of_objects, in_context, in_thread])
def test_no_stand_in_stays_elsewhere(make: Callable[[], tuple[Function, Callable[[], object]]]) -> None:
    (func, kept), x = make(), torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    H = hesse.Hessian(func, x, engine="compiled")
    assert type(kept()) is Tensor
    # Of x·exp(x).
    torch.testing.assert_close(H.to_dense(), torch.diag((2 + x) * x.exp()))


def test_gradients_of_captured_tensors_are_of_all_points() -> None:
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def func(x: Tensor) -> Tensor:
        weight.grad = None
        (weight * x.detach()).sum().backward()  # type: ignore[no-untyped-call]  # no types there
        return (x**3).sum()

    x = torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    H = hesse.Hessian(func, x, engine="compiled")
    for i in range(1, 6):
        H = H.at(x + i)
        torch.testing.assert_close(weight.grad, x + i)


@pytest.mark.parametrize("engine", ["compiled", "auto"])
def test_a_parameter_whose_data_a_function_assigns_keeps_its_numbers(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As classifiers do that normalize their weights in each forward."""
    layer = torch.nn.Linear(4, 2, bias=False).double()
    rows = torch.nn.functional.normalize(layer.weight.detach(), dim=1)

    def func(x: Tensor) -> Tensor:
        layer.weight.data = torch.nn.functional.normalize(layer.weight.data, dim=1)
        return (layer(x) ** 3).sum()  # type: ignore[no-any-return]  # of a module

    monkeypatch.setattr(engines, "FIXED_PRICE", 0.0)
    monkeypatch.setattr(engines, "NODE_PRICE", 0.0)
    x = torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    if engine == "compiled":
        with pytest.raises(hesse.CaptureError, match=r"it assigns to \.data of a tensor of type Parameter"):
            hesse.Hessian(func, x, engine=engine)
    else:
        H = hesse.Hessian(func, x, engine=engine, expect=10**6)
        with pytest.warns(UserWarning, match="goes on with the tape"):
            torch.testing.assert_close(H @ x, rows.mT @ (6 * (rows @ x) ** 2))
    torch.testing.assert_close(layer.weight.detach(), rows)
