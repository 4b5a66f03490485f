"""Bessel functions and polynomials that PyTorch does not differentiate: refused by name wherever that matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse import functional
from hesse._rules import special_functions
from tests.functional.references import DOUBLE, assert_values

pytestmark = pytest.mark.usefixtures("uncompiled")

X = torch.tensor([0.5, 1.5], dtype=DOUBLE)
V = torch.ones(2, dtype=DOUBLE)


def function(name: str) -> Callable[[Tensor], Tensor]:
    called: Any = getattr(torch.special, name)
    return (lambda x: called(x, 3)) if "polynomial" in name else called


def is_followed(name: str) -> bool:
    """Whether the installed PyTorch differentiates it."""
    return bool(function(name)(X.clone().requires_grad_()).requires_grad)


@pytest.fixture(scope="module")
def refused() -> str:
    """The first function that the installed PyTorch does not differentiate."""
    names = [name for name in special_functions.NAMES if not is_followed(name)]
    if not names:
        pytest.skip("This PyTorch differentiates all of them.")
    return names[0]


@pytest.mark.parametrize("name", special_functions.NAMES)
@pytest.mark.one_in(5)
def test_it_is_refused_by_name_or_right(name: str) -> None:
    called = function(name)
    func = lambda x: called(x).square().sum()  # noqa: E731  # a function in one line
    operator = f"aten::special_{name}"
    for product in (
        lambda: hesse.vhp(func, X, V),
        lambda: hesse.Hessian(func, X, engine="compiled"),
        lambda: functional.vjp(func, X),
        lambda: hesse.func.hvp(func)(X, V),
        lambda: torch.vmap(lambda v: hesse.vhp(func, X, v)[1])(V[None]),
    ):
        if is_followed(name):  # this release differentiates it
            product()
            continue
        with pytest.raises(hesse.NoDerivativeError, match=f"derivative for {operator}") as caught:
            product()
        assert caught.value.operator.startswith(operator)


def test_forward_mode_refuses_it_too(refused: str) -> None:
    with pytest.raises(NotImplementedError, match=f"derivative for aten::special_{refused} is not implemented"):
        functional.jacobian(function(refused), X, vectorize=True, strategy="forward-mode")


def test_constants_of_it_do_no_harm() -> None:
    captured = X.clone().requires_grad_()
    for argument in (lambda x: x.detach(), lambda x: captured, lambda x: X):
        func = lambda x, argument=argument: (torch.special.bessel_j0(argument(x)) * x**2).sum()  # noqa: E731  # a function in one line
        for product in (
            hesse.vhp(func, X, V)[1],
            hesse.Hessian(func, X) @ V,
            torch.vmap(lambda v, func=func: hesse.vhp(func, X, v)[1])(V[None])[0],
        ):
            assert_values(product, 2 * torch.special.bessel_j0(X))


def test_check_names_it_and_its_line(refused: str) -> None:
    called = function(refused)
    (finding,) = hesse.check(lambda x: called(x).sum(), X, rng=0).findings
    assert (finding.kind, finding.operator) == ("no second derivative", f"aten::special_{refused}")
    assert finding.file == __file__
