"""The determinant: derivatives of a polynomial, also of singular matrices and of those with equal singular values."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import hesse
from hesse import functional
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_thrice_differentiable

pytestmark = pytest.mark.usefixtures("uncompiled")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def of_rank(size: int, rank: int) -> Tensor:
    return draw(size, rank, seed=size) @ draw(rank, size, seed=rank + 10)


def by_permutations(matrix: Tensor) -> Tensor:
    """The sum over all permutations, in products that PyTorch differentiates as a polynomial."""
    n = len(matrix)
    total = matrix.new_zeros(())
    for columns in itertools.permutations(range(n)):
        sign = (-1) ** sum(a > b for a, b in itertools.combinations(columns, 2))
        total = total + sign * torch.stack([matrix[i, j] for i, j in enumerate(columns)]).prod()
    return total


MATRICES = {
    "of one number": draw(1, 1),
    "zero, two by two": torch.zeros(2, 2, dtype=DOUBLE),
    "singular, two by two": torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=DOUBLE),
    "identity": torch.eye(3, dtype=DOUBLE),
    "identity and ones": torch.eye(3, dtype=DOUBLE) + 1,
    "diagonal with a zero": torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=DOUBLE)),
    "four by four": draw(4, 4),
    "large identity": torch.eye(5, dtype=DOUBLE),
    "rank four of five": of_rank(5, 4),
    "rank three of five": of_rank(5, 3),
    "rank two of five": of_rank(5, 2),
    "rank one of five": of_rank(5, 1),
    "zero, four by four": torch.zeros(4, 4, dtype=DOUBLE),
    "a zero row": torch.cat((draw(3, 4), torch.zeros(1, 4, dtype=DOUBLE))),
    "nearly singular": of_rank(5, 4) + 1e-10 * draw(5, 5, seed=3),
    "two equal zeros": torch.diag(torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0], dtype=DOUBLE)),
}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.one_in(9)
def test_derivatives_are_those_of_the_sum_over_permutations(name: str) -> None:
    matrix = MATRICES[name]
    v = draw(*matrix.shape, seed=2)
    gradient = torch.autograd.functional.jacobian(by_permutations, matrix)
    product = torch.autograd.functional.vhp(by_permutations, matrix, v)[1]
    det = torch.linalg.det
    assert_values(functional.vjp(det, matrix)[1], gradient, **CLOSE)
    for engine in ("tape", "compiled"):
        H = hesse.Hessian(det, matrix, engine=engine)
        assert_values(H.gradient, gradient, **CLOSE)
        assert_values(H @ v, product, **CLOSE)
    for found in (hesse.vhp(det, matrix, v)[1], hesse.hvp(det, matrix, v)[1], hesse.func.hvp(det)(matrix, v)):
        assert_values(found, product, **CLOSE)
    assert_values(torch.vmap(lambda v: hesse.vhp(det, matrix, v)[1])(v[None])[0], product, **CLOSE)
    assert_values(torch.vmap(lambda matrix: hesse.vhp(det, matrix, v)[1])(matrix[None])[0], product, **CLOSE)
    jacobian = hesse.Jacobian(det, matrix)
    assert_values(jacobian @ v, (gradient * v).sum(), **CLOSE)
    assert_values(jacobian.to_dense().reshape(matrix.shape), gradient, **CLOSE)


def test_third_and_fourth_derivatives_agree_with_differences() -> None:
    matrices = torch.stack([draw(4, 4), of_rank(4, 3), of_rank(4, 2), torch.eye(4, dtype=DOUBLE)])
    assert_thrice_differentiable(lambda x: torch.linalg.det(x).sin().sum(), (matrices,))

    def third(x: Tensor) -> Tensor:
        product = hesse.vhp(lambda x: torch.linalg.det(x).sum(), x, torch.cos(x), create_graph=True)[1]
        return torch.autograd.grad(product.sin().sum(), x, create_graph=True)[0]

    assert gradcheck(third, (matrices.requires_grad_(),), fast_mode=True)


def test_complex_matrices_follow_pytorchs_convention() -> None:
    z = torch.complex(draw(4, 4), draw(4, 4, seed=1))
    singular = torch.complex(of_rank(4, 3), torch.zeros(4, 4, dtype=DOUBLE))
    func = lambda z: (torch.linalg.det(z).abs() ** 2 + torch.linalg.det(z).real).sum()  # noqa: E731  # a function in one line
    expected = lambda z: (by_permutations(z).abs() ** 2 + by_permutations(z).real).sum()  # noqa: E731  # a function in one line
    for matrix in (z, singular):
        found, reference = hesse.vhp(func, matrix, z)[1], torch.autograd.functional.vhp(expected, matrix, z)[1]
        assert_values(found, reference, rtol=1e-9, atol=1e-9)


def test_single_precision_has_its_own_digits() -> None:
    matrix, v = of_rank(5, 4), draw(5, 5, seed=2)
    product = torch.autograd.functional.vhp(by_permutations, matrix, v)[1]
    found = hesse.vhp(torch.linalg.det, matrix.float(), v.float())[1].double()
    assert (found - product).norm() < 1e-5 * product.norm()


def test_what_is_no_number_stays_none() -> None:
    product = hesse.vhp(torch.linalg.det, torch.full((4, 4), torch.nan), torch.ones(4, 4))[1]
    assert product.isnan().all()


def test_pytorch_is_wrong_at_singular_matrices() -> None:
    """A release in which this fails has mended it: then the rule can go where PyTorch is right inside transforms."""
    singular = MATRICES["diagonal with a zero"].clone().requires_grad_()
    assert not torch.autograd.grad(torch.linalg.det(singular), singular)[0].any()


def test_inside_transforms_pytorch_gives_no_number_at_equal_singular_values_or_has_mended_it() -> None:
    identity, v = torch.eye(3, dtype=DOUBLE), draw(3, 3)
    inside = torch.func.vjp(torch.func.grad(torch.linalg.det), identity)[1](v)[0]
    if not inside.isnan().any():
        assert_values(inside, torch.autograd.functional.vhp(by_permutations, identity, v)[1], rtol=1e-12, atol=1e-12)
