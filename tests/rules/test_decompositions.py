"""Decompositions where divisors of their derivatives are rounding errors: no number, and right ones close by."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.linalg import eigh, eigvalsh, svdvals

import hesse
from hesse import functional
from tests.functional.references import DOUBLE

pytestmark = pytest.mark.usefixtures("uncompiled")

ROTATION = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(3)))[0]
WEIGHTS = torch.arange(9, dtype=DOUBLE).reshape(3, 3)


def with_eigenvalues(*values: float) -> Tensor:
    """A matrix whose computed eigenvalues are these but for rounding."""
    matrix = ROTATION @ torch.diag(torch.tensor(values, dtype=DOUBLE)) @ ROTATION.mT
    return (matrix + matrix.mT) / 2


def symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2


def exponential(x: Tensor) -> Tensor:
    values, vectors = eigh(symmetric(x))
    return ((vectors * values.exp()) @ vectors.mT * WEIGHTS).sum()


def projection(x: Tensor) -> Tensor:
    vector = eigh(symmetric(x))[1][:, 0]
    return vector @ WEIGHTS @ vector


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "eigenvalues": (lambda x: eigvalsh(symmetric(x)).exp().sum(), with_eigenvalues(2, 2, 1)),
    "zero eigenvalues": (lambda x: (eigvalsh(symmetric(x)) + 1).log().sum(), with_eigenvalues(2, 0, 0)),
    "matrix function": (exponential, with_eigenvalues(2, 2, 1)),
    "another eigenvector": (projection, with_eigenvalues(2, 2, 1)),
    "general": (lambda x: torch.linalg.eigvals(x).exp().sum().real, with_eigenvalues(2, 2, 1)),
    "singular values": (lambda x: svdvals(x).exp().sum(), ROTATION @ with_eigenvalues(2, 2, 1)),
    "nuclear norm": (lambda x: torch.linalg.matrix_norm(x, "nuc"), ROTATION @ with_eigenvalues(2, 2, 1)),
    "qr of a singular matrix": (lambda x: (torch.linalg.qr(x)[0] * WEIGHTS).sum(), with_eigenvalues(2, 1, 0)),
}


def products(func: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Iterator[Tensor]:
    """In every way that hesse has."""
    yield hesse.vhp(func, x, v)[1]
    yield hesse.hvp(func, x, v)[1]
    yield hesse.Hessian(func, x) @ v
    yield hesse.func.vhp(func)(x, v)
    yield torch.func.jvp(hesse.func.grad(func), (x,), (v,))[1]
    yield torch.vmap(hesse.func.hvp(func))(torch.stack([x, x]), torch.stack([v, v]))[0]
    yield functional.vjp(lambda z: torch.func.jvp(func, (z,), (v,))[1], x, x.new_ones(()))[1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_quotients_of_rounding_errors_are_no_number(name: str) -> None:
    func, x = FUNCTIONS[name]
    for product in products(func, x, WEIGHTS.cos()):
        assert product.isnan().any()


def test_a_gradient_by_equal_eigenvalues_is_right() -> None:
    x = with_eigenvalues(2, 2, 1)
    func = FUNCTIONS["eigenvalues"][0]
    expected = torch.linalg.matrix_exp(x)
    torch.testing.assert_close(functional.vjp(func, x)[1], expected)
    torch.testing.assert_close(hesse.func.grad(func)(x), expected)


def test_of_a_batch_only_matrices_with_equal_values_have_no_number() -> None:
    x = torch.stack([with_eigenvalues(2, 2, 1), with_eigenvalues(3, 2, 1)])
    product = hesse.vhp(lambda z: eigvalsh(symmetric(z)).pow(3).sum(), x, torch.ones_like(x))[1]
    assert product[0].isnan().all()
    # The sum of cubes is the trace of X³, whose derivative 3X² changes by 3(VX + XV) along V.
    along = torch.ones(3, 3, dtype=DOUBLE)
    torch.testing.assert_close(product[1], 3 * (along @ x[1] + x[1] @ along))


@pytest.mark.parametrize("decomposition", ["eigvalsh", "eigh", "svdvals"])
def test_many_small_eigenvalues_that_differ_by_more_than_their_rounding_are_right(decomposition: str) -> None:
    places = torch.linspace(0, 1, 30, dtype=DOUBLE)
    data = (6 * places).sin()

    def matrix(t: Tensor) -> Tensor:
        distances = places - places[:, None]
        return t[1].exp() * (-(distances**2) / (2 * t[0].exp() ** 2)).exp() + 1e-6 * torch.eye(30, dtype=DOUBLE)

    def likelihood(t: Tensor) -> Tensor:
        K = matrix(t)
        if decomposition == "eigh":
            values, vectors = eigh(K)
            return values.log().sum() + ((vectors.mT @ data) ** 2 / values).sum()
        values = eigvalsh(K) if decomposition == "eigvalsh" else svdvals(K)
        return values.log().sum() + data @ torch.linalg.solve(K, data)

    def by_cholesky(t: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(matrix(t))
        solved = torch.linalg.solve_triangular(factor, data[:, None], upper=False)
        return 2 * factor.diagonal().log().sum() + (solved**2).sum()

    t = torch.tensor([-1.0, 0.2], dtype=DOUBLE)
    expected = torch.autograd.functional.hessian(by_cholesky, t)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(hesse.Hessian(likelihood, t).to_dense(), expected, **close)
    v = torch.ones(2, dtype=DOUBLE)
    torch.testing.assert_close(hesse.func.hvp(likelihood)(t, v), expected @ v, **close)


def test_what_is_zero_but_for_rounding_and_not_used_does_not_matter() -> None:
    column = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    x = torch.outer(column, column.flip(0).cos())
    v = WEIGHTS.cos()
    product = hesse.vhp(lambda z: svdvals(z)[0] ** 2, x, v)[1]
    expected = torch.autograd.functional.vhp(lambda z: eigvalsh(z.mT @ z)[-1], x + 1e-9 * WEIGHTS.sin(), v)[1]
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-6)


def test_equal_eigenvalues_along_directions_that_do_not_part_them_are_right() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right, v = [torch.randn(6, n, dtype=DOUBLE, generator=generator) for n in (2, 6, 6)]
    x, one = left @ right[:2], torch.eye(6, dtype=DOUBLE)
    by_values = lambda z: eigvalsh(z @ z.mT + one).log().sum()  # noqa: E731  # a function in one line
    expected = torch.autograd.functional.vhp(
        lambda z: torch.linalg.cholesky(z @ z.mT + one).diagonal().log().sum(), x, v
    )
    for product in (hesse.vhp(by_values, x, v)[1], hesse.hvp(by_values, x, v)[1], hesse.Hessian(by_values, x) @ v):
        torch.testing.assert_close(product, 2 * expected[1])


def test_check_names_the_decomposition() -> None:
    func, x = FUNCTIONS["eigenvalues"]
    found = str(hesse.check(func, x))
    assert "derivative of LinalgEigh" in found
    assert "equal eigenvalues" in found
