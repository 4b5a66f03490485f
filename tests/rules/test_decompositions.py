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


def random(*shape: int, seed: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("seed", range(4))
def test_equal_values_along_functions_of_the_matrix_are_right(seed: int) -> None:
    orthogonal = torch.linalg.qr(random(5, 5, seed=seed))[0]
    x = orthogonal @ torch.diag(torch.tensor([2.0, 2, 2, 1, 1], dtype=DOUBLE)) @ orthogonal.mT
    v = x @ x + 0.3 * x
    by_eigenvalues = lambda z: eigvalsh(symmetric(z)).exp().sum()  # noqa: E731  # a function in one line
    by_singular_values = lambda z: svdvals(z).pow(4).sum()  # noqa: E731  # a function in one line
    for product in (hesse.vhp, hesse.hvp):
        torch.testing.assert_close(product(by_eigenvalues, x, v)[1], torch.linalg.matrix_exp(x) @ v)
        # The sum of fourth powers is the trace of (XᵀX)², and the derivative of its gradient 4XXᵀX is 12X²V here.
        torch.testing.assert_close(product(by_singular_values, x, v)[1], 12 * x @ x @ v)
    operator = hesse.Hessian(by_eigenvalues, x)
    torch.testing.assert_close(operator @ v, torch.linalg.matrix_exp(x) @ v)
    assert (operator @ WEIGHTS.new_ones(5, 5).tril()).isnan().any()


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 4)])
def test_an_even_function_of_the_singular_values_of_a_matrix_of_low_rank_is_right(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x = random(shape[0], 2, dtype=dtype, seed=1) @ random(2, shape[1], dtype=dtype, seed=2)
    v = random(*shape, dtype=dtype, seed=3)
    one = torch.eye(shape[1], dtype=dtype)
    expected = torch.autograd.functional.vhp(lambda z: torch.linalg.slogdet(one + z.mH @ z)[1], x, v)[1]
    torch.testing.assert_close(hesse.vhp(lambda z: (svdvals(z) ** 2 + 1).log().sum(), x, v)[1], expected)
    if dtype.is_complex or shape[0] != shape[1]:
        # The gradient of the nuclear norm jumps there.
        assert hesse.vhp(lambda z: svdvals(z).sum(), x, v)[1].isnan().any()


def test_the_largest_of_singular_values_of_which_others_are_equal_is_right() -> None:
    x, v = torch.diag(torch.tensor([3.0, 1, 1], dtype=DOUBLE)), random(3, 3, seed=4)
    product = hesse.vhp(lambda z: svdvals(z)[0], x, v)[1]
    expected = torch.autograd.functional.vhp(lambda z: svdvals(z)[0], x + 1e-8 * random(3, 3, seed=5), v)[1]
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-6)


def test_quotients_of_which_rounding_leaves_some_digits_are_no_number() -> None:
    v = random(3, 3, seed=6)
    assert hesse.vhp(lambda z: eigvalsh(symmetric(z)).exp().sum(), with_eigenvalues(30, 30, 1), v)[1].isnan().any()
    for seed in range(20):
        vector = torch.linalg.qr(random(3, 1, seed=seed))[0]
        # Its gradient by eigenvalues that are zero is zero but for rounding, and its second derivative is not.
        product = hesse.vhp(lambda z: ((eigvalsh(symmetric(z)) + 1).log() ** 2).sum(), vector @ vector.mT, v)[1]
        assert product.isnan().any()


def test_phases_of_singular_vectors_of_the_value_zero_are_no_number() -> None:
    x = random(3, 2, dtype=torch.complex128, seed=7) @ random(2, 3, dtype=torch.complex128, seed=8)

    def truncated(z: Tensor) -> Tensor:
        u, values, vh = torch.linalg.svd(z, full_matrices=False)
        return (((u[:, :2] * values[:2].log1p()) @ vh[:2]).abs() ** 2).sum()

    gradient = functional.vjp(truncated, x)[1]
    given = x.clone().requires_grad_()
    squares = eigvalsh(given.mH @ given)[1:]
    torch.testing.assert_close(gradient, torch.autograd.grad((squares.sqrt().log1p() ** 2).sum(), given)[0])
    assert hesse.vhp(truncated, x, x.conj())[1].isnan().any()


def test_check_names_the_decomposition() -> None:
    func, x = FUNCTIONS["eigenvalues"]
    found = str(hesse.check(func, x))
    assert "derivative of LinalgEigh" in found
    assert "equal eigenvalues" in found
