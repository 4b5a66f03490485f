"""logaddexp, logcumsumexp, logit, mish and powers, where PyTorch's second derivatives are no numbers or wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable

pytestmark = pytest.mark.usefixtures("uncompiled")

ONES = torch.ones(1, dtype=DOUBLE)


def numbers(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=DOUBLE)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def second(func: Callable[[mpmath.mpf], mpmath.mpf], x: float) -> float:
    """The second derivative by differences in sixty digits."""
    with mpmath.workdps(60):
        return float(mpmath.diff(func, mpmath.mpf(x), 2, h=mpmath.mpf(10) ** -15))


def products(func: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The diagonal of the Hessian of an elementwise function's sum, made in every way."""
    total = lambda x: func(x).sum()  # noqa: E731  # a function in one line
    v = torch.ones_like(x)
    return [
        hesse.vhp(total, x, v)[1],
        hesse.hvp(total, x, v)[1],
        hesse.Hessian(total, x) @ v,
        hesse.Hessian(total, x, engine="compiled") @ v,
        hesse.func.hvp(total)(x, v),
        torch.vmap(lambda v: hesse.vhp(total, x, v)[1])(v[None])[0],
        torch.vmap(lambda x: hesse.vhp(total, x, v)[1])(x[None])[0],
    ]


ELEMENTWISE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[mpmath.mpf], mpmath.mpf], list[float]]] = {
    "mish": (
        F.mish,
        lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
        [-800.0, -30.0, -1.0, 0.0, 1e-9, 2.0, 20.0, 80.0, 100.0, 800.0],
    ),
    "logaddexp": (
        lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        lambda x: mpmath.log1p(mpmath.exp(x)),
        [-800.0, -50.0, -1.0, 0.0, 0.5, 21.0, 50.0, 1000.0],
    ),
    "logaddexp2": (
        lambda x: torch.logaddexp2(torch.ones_like(x), x),
        lambda x: mpmath.log(2 + mpmath.power(2, x), 2),
        [-2000.0, -50.0, -1.0, 1.0, 1.5, 31.0, 2000.0],
    ),
    "logit inside": (
        lambda x: torch.logit(x, eps=1e-3),
        lambda x: mpmath.log(x / (1 - x)),
        [0.002, 0.25, 0.5, 0.9],
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.one_in(3)
def test_second_derivatives_are_those_of_sixty_digits(name: str) -> None:
    func, exact, entries = ELEMENTWISE[name]
    x = numbers(*entries)
    expected = numbers(*[second(exact, entry) for entry in entries])
    for product in products(func, x):
        assert_values(product, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_third_derivatives_agree_with_differences_of_products(name: str) -> None:
    func, _, entries = ELEMENTWISE[name]
    x = numbers(*[entry for entry in entries if abs(entry) < 30])
    assert_thrice_differentiable(lambda x: func(x).sum().sin(), (x,))


def test_in_single_precision_none_overflows() -> None:
    x = torch.tensor([90.0, 200.0])
    assert not hesse.vhp(lambda x: F.mish(x).sum(), x, torch.ones(2))[1].any()
    assert not hesse.vhp(lambda x: torch.logaddexp(x, torch.zeros(2)).sum(), x, torch.ones(2))[1].any()


def test_logit_is_constant_outside() -> None:
    x = numbers(-0.5, 0.0, 0.0005, 0.25, 0.9995, 1.0, 2.0)
    expected = torch.zeros(7, dtype=DOUBLE)
    expected[3] = 1 / 0.75**2 - 1 / 0.25**2
    for product in products(lambda x: torch.logit(x, eps=1e-3), x):
        assert_values(product, expected)
    assert_values(
        torch.logit(x, eps=1e-3),
        hesse.vhp(lambda x: torch.logit(x, eps=1e-3)[3], x, x)[0].new_tensor(
            [torch.logit(entry, eps=1e-3).item() for entry in x]
        ),
    )


def test_both_arguments_of_logaddexp_are_differentiated() -> None:
    assert_right(lambda x, y: torch.logaddexp(x, y).sin().sum(), (draw(2, 3), draw(3, seed=1)))
    x = numbers(1.5, 1.5)
    expected = torch.tensor([[0.25, -0.25], [-0.25, 0.25]], dtype=DOUBLE)
    assert_values(hesse.Hessian(lambda x: torch.logaddexp(x[0], x[1]), x).to_dense(), expected)


def test_infinite_arguments_of_logaddexp_have_finite_derivatives() -> None:
    for entries in ((-torch.inf, 1.0), (torch.inf, 1.0)):
        assert not (hesse.Hessian(lambda x: torch.logaddexp(x[0], x[1]), numbers(*entries)).to_dense()).any()


C = torch.tensor([1 + 2j, 0.5 - 1j], dtype=torch.complex128)


def power(x: Tensor) -> Tensor:
    return x[0] ** x[1]


POWERS = {
    (2.0, 0.0): (0.0, 1 / 2, torch.tensor(2.0).log().item() ** 2),
    (0.5, 0.0): (0.0, 2.0, torch.tensor(0.5).log().item() ** 2),
    (0.0, 2.0): (2.0, 0.0, 0.0),
    (0.0, 3.0): (0.0, 0.0, 0.0),
    (3.0, 1.0): (0.0, 1 + torch.tensor(3.0).log().item(), 3 * torch.tensor(3.0).log().item() ** 2),
}
"""Base and exponent; second derivatives by the base, by both, by the exponent."""


@pytest.mark.parametrize("point", POWERS)
@pytest.mark.one_in(5)
def test_powers_have_symmetric_second_derivatives(point: tuple[float, float]) -> None:
    x = numbers(*point)
    by_base, by_both, by_exponent = POWERS[point]
    expected = torch.tensor([[by_base, by_both], [by_both, by_exponent]], dtype=DOUBLE)
    for raised in (power, lambda x: torch.float_power(x[0], x[1])):
        for engine in ("tape", "compiled"):
            assert_values(hesse.Hessian(raised, x, engine=engine).to_dense(), expected, rtol=1e-6, atol=1e-12)
        assert_values(hesse.functional.hessian(raised, x), expected, rtol=1e-6, atol=1e-12)
        rows = torch.vmap(lambda v, raised=raised: hesse.vhp(raised, x, v)[1])(torch.eye(2, dtype=DOUBLE))
        assert_values(rows, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("raised", "written"),
    [
        (lambda x, y: x.clone().pow_(y), lambda x, y: (y * x.log()).exp()),
        (lambda x, y: torch._foreach_pow([x], [y])[0], lambda x, y: (y * x.log()).exp()),
        (
            lambda x, y: (torch.complex(x, y) ** torch.complex(y, 2 * y)).real,
            lambda x, y: (torch.complex(y, 2 * y) * torch.complex(x, y).log()).exp().real,
        ),
        (
            lambda x, y: (x ** torch.complex(y, 2 * y)).imag,
            lambda x, y: (torch.complex(y, 2 * y) * x.log()).exp().imag,
        ),
    ],
    ids=["in place", "of lists", "complex", "complex exponent"],
)
def test_variants_of_powers_are_exponentials_where_exponents_are_zero(raised: Callable, written: Callable) -> None:
    inputs = numbers(2.0, 0.5, 3.0), numbers(0.0, 0.0, 1.5)
    blocks = hesse.functional.hessian(lambda x, y: raised(x, y).sin().sum(), inputs)
    expected = torch.autograd.functional.hessian(lambda x, y: written(x, y).sin().sum(), inputs)
    for rows, expected_rows in zip(blocks, expected, strict=True):
        for block, entries in zip(rows, expected_rows, strict=True):
            assert_values(block, entries, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("raised", "base", "exponent"),
    [
        (lambda x: C**x, lambda x: C, lambda x: x + 0j),
        (lambda x: x**C, lambda x: x + 0j, lambda x: C),
        (lambda x: torch.complex(x, x.cos()) ** x.sin(), lambda x: torch.complex(x, x.cos()), lambda x: x.sin() + 0j),
        (lambda x: (1 + 2j) ** x, lambda x: torch.tensor(1 + 2j, dtype=C.dtype), lambda x: x + 0j),
        (lambda x: C.clone().pow_(x), lambda x: C, lambda x: x + 0j),
        (lambda x: torch._foreach_pow([C], [x])[0], lambda x: C, lambda x: x + 0j),
    ],
    ids=["real exponent", "real base", "both vary", "number", "in place", "lists"],
)
def test_powers_of_real_and_complex_numbers_have_their_derivatives_in_forward_mode(
    raised: Callable, base: Callable, exponent: Callable
) -> None:
    """PyTorch keeps the real part of the tangent alone, without a word: the exponential is written out beside it."""
    written = lambda x: torch.view_as_real((exponent(x) * base(x).log()).exp())  # noqa: E731  # named like its neighbors
    func = lambda x: torch.view_as_real(raised(x))  # noqa: E731  # named like its neighbors
    x, v = numbers(0.5, 1.7), numbers(1.0, -2.0)
    forward = {"vectorize": True, "strategy": "forward-mode"}
    expected = torch.autograd.functional.jacobian(written, x)
    assert_values(hesse.functional.jacobian(func, x, **forward), expected, rtol=1e-9, atol=1e-12)
    hessian = hesse.functional.hessian(
        lambda x: func(x).sin().sum(), x, vectorize=True, outer_jacobian_strategy="forward-mode"
    )
    second = torch.autograd.functional.hessian(lambda x: written(x).sin().sum(), x)
    assert_values(hessian, second, rtol=1e-9, atol=1e-12)
    along = lambda x, function: torch.func.jvp(lambda x: function(x).sin().sum(), (x,), (x.cos(),))[1]  # noqa: E731  # named like its neighbors
    product = hesse.vhp(lambda x: along(x, func), x, v)[1]
    assert_values(product, torch.autograd.functional.vhp(lambda x: along(x, written), x, v)[1], rtol=1e-9, atol=1e-12)


def test_sinc_in_place_has_the_derivatives_of_sinc() -> None:
    (product,) = hesse.vhp(lambda x: x.clone().sinc_().sum(), (numbers(1e-8),), (numbers(1.0),))[1]
    assert_values(product, numbers(-(torch.pi**2) / 3))


def test_a_constant_exponent_of_zero_gives_a_constant() -> None:
    exponents = numbers(0.0, 0.0, 0.0, 2.0, 3.0)
    for product in products(lambda x: x**exponents, numbers(0.0, 2.0, -2.0, 0.0, -1.0)):
        assert_values(product, numbers(0.0, 0.0, 0.0, 2.0, -6.0))


def test_powers_elsewhere_are_as_ever() -> None:
    base, exponent = draw(2, 3).exp(), draw(2, 3, seed=1)
    exponent[0, 1] = 0
    assert_thrice_differentiable(lambda x, y: (x**y).sin().sum(), (base, exponent))
    nothing = hesse.functional.hessian(power, numbers(-2.0, 0.0))
    assert nothing[1, 1].isnan()


@pytest.mark.parametrize(
    ("raised", "entries"),
    [(lambda x: 0.0**x, (0.0, 0.5, 1.0, 3.0)), (lambda x: torch.zeros((), dtype=DOUBLE) ** x, (1.5, 3.0))],
    ids=["number", "tensor"],
)
def test_powers_of_zero_are_constants(raised: Callable[[Tensor], Tensor], entries: tuple[float, ...]) -> None:
    for product in products(raised, numbers(*entries)):
        assert_values(product, torch.zeros(len(entries), dtype=DOUBLE))


def cumulated(x: Tensor) -> Tensor:
    """Also of what is far below its neighbors, or nothing."""
    nothing = x.new_full((1,), -torch.inf)
    return (torch.cat([nothing, nothing, x, nothing]).logcumsumexp(0)[2:] * numbers(1, -2, 3, 0.5, 2, 1)).sin().sum()


def test_cumulated_exponentials_have_every_derivative() -> None:
    x = numbers(0.5, -90.0, -1.2, 2.0, 0.1)
    assert_thrice_differentiable(cumulated, (x,))
    v = draw(5)
    weights = torch.tril(torch.softmax(x.expand(5, 5).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf), 1))
    J = hesse.Jacobian(lambda x: x.logcumsumexp(0), x)
    assert_values(J @ v, weights @ v)
    assert_values(hesse.functional.jvp(lambda x: x.logcumsumexp(0), x, v)[1], weights @ v)
    assert_right(lambda x: x.reshape(2, 3).logcumsumexp(-1).sin().sum(), (draw(6),))


def test_what_a_transform_calls_in_another_operator_needs_no_rule() -> None:
    """There every rule is called, for arguments that need none too."""
    x, v = numbers(0.2, 0.7), numbers(1.0, -2.0)
    by_hand = (1 / (1 - x) ** 2 - 1 / x**2) * v
    assert_values(hesse.func.hvp(lambda x: torch.special.logit(x).sum())(x, v), by_hand)
    # |z²| is x² + x⁴ at z = x + i·x².
    raised = lambda x: torch.float_power(torch.complex(x, x**2), 2 * torch.ones(2, dtype=x.dtype)).abs().sum()  # noqa: E731  # named like its neighbors
    assert_values(hesse.func.hvp(raised)(x, v), (2 + 12 * x**2) * v)


def test_pytorch_has_no_numbers_or_wrong_ones() -> None:
    """A release in which one of these fails has mended it: then its rule can go."""
    vhp = torch.autograd.functional.vhp
    for func, entries in (
        (F.mish, [800.0]),
        (lambda x: torch.logaddexp(x, torch.zeros_like(x)), [-800.0]),
        (lambda x: torch.logit(x, eps=1e-3), [0.0]),
        (lambda x: 0.0**x, [2.0]),
    ):
        x = numbers(*entries)
        assert vhp(lambda x, func=func: func(x).sum(), x, torch.ones_like(x))[1].isnan().all()
    x = numbers(1.0, 2.0)
    assert torch.autograd.functional.jvp(lambda x: x.logcumsumexp(0), x, x)[1].isnan().all()
    theirs = torch.autograd.functional.hessian(power, numbers(2.0, 0.0))
    assert theirs[0, 1] == 0 != theirs[1, 0]
    for raised in (lambda x: C**x, lambda x: x**C, lambda x: (1 + 2j) ** x, lambda x: x ** (1 + 2j)):
        assert not torch.func.jvp(raised, (x,), (x,))[1].imag.any()


def test_cumulated_exponentials_of_large_numbers_are_as_exact_as_their_differences() -> None:
    x, v, factors = (draw(6) * 4 + 1e4) - 1e4, draw(6), numbers(1, -2, 3, 0.5, 2, 1)
    # Shifting all entries changes no derivative.
    weights = torch.softmax(x.expand(6, 6).masked_fill(~torch.ones(6, 6).tril().bool(), -torch.inf), 1)
    expected = factors @ (weights * v - weights * (weights @ v)[:, None])
    assert_values(hesse.vhp(lambda x: x.logcumsumexp(0) @ factors, x + 1e4, v)[1], expected)
