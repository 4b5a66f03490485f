"""Functions that keep what they computed, in variables of any kind: no stand-in of a capture stays in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import hesse

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
