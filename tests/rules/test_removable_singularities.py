"""sinc and Bessel functions of order one: derivatives near zero, where PyTorch's formulas cancel."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[mpmath.mpf], mpmath.mpf]]] = {
    "sinc": (torch.sinc, lambda x: mpmath.sincpi(x)),
    "bessel_j1": (torch.special.bessel_j1, lambda x: mpmath.besselj(1, x)),
    "i1": (torch.special.i1, lambda x: mpmath.besseli(1, x)),
    "i1e": (torch.special.i1e, lambda x: mpmath.besseli(1, x) * mpmath.exp(-abs(x))),
    "modified_bessel_i1": (torch.special.modified_bessel_i1, lambda x: mpmath.besseli(1, x)),
}
DIFFERENTIABLE = [
    name for name, (function, _) in FUNCTIONS.items() if function(torch.ones((), requires_grad=True)).requires_grad
]
POINTS = torch.tensor([1e-16, -1e-12, 1e-8, -1e-5, 1e-3, -0.05, 0.3, -0.32, 0.9, -1.1, 2.0], dtype=DOUBLE)


def derivatives(name: str, order: int) -> Tensor:
    """Of each point, in fifty digits."""
    with mpmath.workdps(50):
        return torch.tensor(
            [float(mpmath.diff(FUNCTIONS[name][1], mpmath.mpf(x.item()), order)) for x in POINTS], dtype=DOUBLE
        )


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_second_derivative_has_all_digits_at_every_distance_from_zero(name: str) -> None:
    function = FUNCTIONS[name][0]
    product = hesse.vhp(lambda x: function(x).sum(), POINTS, torch.ones_like(POINTS))[1]
    assert_values(product, derivatives(name, 2), rtol=1e-12, atol=1e-14)
    with hesse.Hessian(lambda x: function(x).sum(), POINTS) as H:
        assert_values(H.gradient, derivatives(name, 1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_third_derivative_has_all_digits_too(name: str) -> None:
    function = FUNCTIONS[name][0]
    x = POINTS.clone().requires_grad_()
    product = hesse.vhp(lambda x: function(x).sum(), x, torch.ones_like(x), create_graph=True)[1]
    assert_values(torch.autograd.grad(product.sum(), x)[0], derivatives(name, 3), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_pytorchs_own_is_noise_near_zero(name: str) -> None:
    """When this fails, the rule is not needed any more."""
    function = FUNCTIONS[name][0]
    product = torch.autograd.functional.vhp(lambda x: function(x).sum(), POINTS, torch.ones_like(POINTS))[1]
    assert not torch.allclose(product, derivatives(name, 2), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_products_of_every_kind_agree_with_differences_of_the_gradient(name: str) -> None:
    function = FUNCTIONS[name][0]
    x = torch.tensor([-1.7, -0.2, 0.05, 0.8], dtype=DOUBLE)
    assert_right(lambda x: (function(x).exp() * x).sum(), (x,))
    assert_thrice_differentiable(lambda x: (function(x).exp() * x).sum(), (x,))


def test_an_even_function_has_its_curvature_at_zero_itself() -> None:
    zero = torch.zeros((), dtype=DOUBLE)
    assert hesse.vhp(torch.sinc, zero, torch.ones_like(zero))[1].item() == pytest.approx(-(torch.pi**2) / 3)


def test_complex_arguments_are_differentiated_too() -> None:
    z = torch.tensor([0.2 + 0.1j, -0.05j, 0.4 - 0.3j], dtype=torch.complex128)
    v = torch.tensor([1 + 2j, -1j, 0.5 + 0j], dtype=torch.complex128)
    by_hand = lambda z: (torch.sin(torch.pi * z) / (torch.pi * z)).abs().square().sum()  # noqa: E731  # a function in one line
    product = hesse.vhp(lambda z: torch.sinc(z).abs().square().sum(), z, v)[1]
    assert_values(product, torch.autograd.functional.vhp(by_hand, z, v)[1], rtol=1e-10, atol=1e-10)
