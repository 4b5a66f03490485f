"""Rectifiers of norms that are zero: squares of them have the curvature of squared norms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values
from tests.linearize import programs

X = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [0.3, 0.1, -0.7]], dtype=DOUBLE)
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu in place": lambda r: F.relu(r, inplace=True),
    "leaky_relu": F.leaky_relu,
    "leaky_relu in place": lambda r: F.leaky_relu(r, 0.2, inplace=True),
    "relu6": F.relu6,
    "hardtanh": lambda r: F.hardtanh(r, 0.0, 5.0),
    "hardtanh in place": lambda r: F.hardtanh(r, 0, max_val=5.0, inplace=True),
    "one of another": lambda r: F.relu(F.relu(r.reshape(3, 1)).squeeze(1)),
}


def same(x: Tensor) -> Tensor:
    return x.square().sum(1).sin().sum()


@pytest.mark.parametrize("name", RECTIFIERS)
def test_products_are_those_of_squares(name: str) -> None:
    func = lambda x: RECTIFIERS[name](x.norm(dim=1)).square().sin().sum()  # noqa: E731  # a function in one line
    v = torch.linspace(-1, 1, 9, dtype=DOUBLE).reshape(3, 3)
    expected = torch.autograd.functional.vhp(same, X, v)[1]
    for product in (hesse.vhp(func, X, v)[1], hesse.hvp(func, X, v)[1], hesse.Hessian(func, X) @ v):
        assert_values(product, expected)
    assert_values(hesse.func.hvp(func)(X, v), expected)


def test_programs_leave_them_to_the_tape() -> None:
    func = lambda x: F.relu(x.norm(dim=1)).square().sin().sum()  # noqa: E731  # a function in one line
    v = torch.ones_like(X)
    H = programs.hessian(func, X + 0.1, verify=False)
    with pytest.warns(UserWarning, match="The tape serves"):
        assert_values(H.at(X) @ v, torch.autograd.functional.vhp(same, X, v)[1])


def test_moduli_are_norms_too() -> None:
    assert_values(hesse.Hessian(lambda x: F.relu(x.abs()).square().sum(), X).to_dense(), 2 * torch.eye(9, dtype=DOUBLE))


@pytest.mark.parametrize(
    "func",
    [
        lambda x: torch.relu(-x.norm(dim=1)).square().sum(),
        lambda x: torch.relu(x.norm(dim=1) - 1).square().sum(),
        lambda x: F.hardtanh(x.norm(dim=1), 0.5, 1.0).square().sum(),
        lambda x: torch.relu(x).square().sum(),
    ],
    ids=["negative", "shifted", "bounded", "no norm"],
)
def test_others_are_pytorchs(func: Callable[[Tensor], Tensor]) -> None:
    x = X.clone()
    hesse.vhp(lambda x: x.norm(dim=1).square().sum(), x, x)
    x[1] = 1e-3
    v = torch.ones_like(x)
    assert_values(hesse.vhp(func, x, v)[1], torch.autograd.functional.vhp(func, x, v)[1])
