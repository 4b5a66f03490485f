"""Sparse tensors made of values, read, multiplied: against the same in dense tensors, by plain double backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import refusal, vectors_like

ROWS, COLUMNS = torch.tensor([0, 0, 2, 2]), torch.tensor([0, 2, 1, 2])
"""Places of a 3 x 3 matrix, in rows; the second is empty."""

BY_COLUMNS = torch.tensor([0, 2, 1, 3])
"""The places in the order of columns."""

Make = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


WEIGHT = draw(3, 2, seed=7)


def coo(values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.stack((ROWS, COLUMNS)), values, (3, 3))


def csr(values: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(torch.tensor([0, 2, 2, 4]), COLUMNS, values, (3, 3))


def csc(values: Tensor) -> Tensor:
    return torch.sparse_csc_tensor(torch.tensor([0, 1, 2, 4]), ROWS[BY_COLUMNS], values[BY_COLUMNS], (3, 3))


def dense(values: Tensor) -> Tensor:
    return torch.zeros(3, 3, dtype=DOUBLE).index_put((ROWS, COLUMNS), values)


USES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "to_dense": (lambda matrix: matrix.to_dense() ** 3, lambda matrix: matrix**3),
    "matmul": (lambda matrix: (matrix @ WEIGHT) ** 3, lambda matrix: (matrix @ WEIGHT) ** 3),
    "sparse product": (
        lambda matrix: torch.sparse.mm(matrix.to_sparse_coo(), matrix.to_sparse_coo()).to_dense() ** 2,
        lambda matrix: (matrix @ matrix) ** 2,
    ),
    "product": (lambda matrix: (matrix * matrix).to_dense() ** 2, lambda matrix: matrix**4),
}

pytestmark = [
    # What PyTorch says the first time that a process uses such tensors.
    pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning"),
]


def cubed(matrix: Tensor) -> Tensor:
    return matrix.to_dense().pow(3).sum()


def test_pytorchs_second_derivative_by_the_values_is_zero_or_raises() -> None:
    values = draw(4)
    assert not torch.autograd.functional.vhp(lambda values: cubed(coo(values)), values, values)[1].any()
    assert not torch.autograd.functional.vhp(lambda values: (csr(values).values() ** 3).sum(), values, values)[1].any()
    assert "is_coalesced expected sparse coordinate" in refusal(lambda values: cubed(csr(values)), (values,))
    sampled = lambda left: cubed(torch.sparse.sampled_addmm(csr(values), left, left.mT))  # noqa: E731  # a function in one line
    assert "is_coalesced expected sparse coordinate" in refusal(sampled, (draw(3, 2),))
    reduced = lambda weight: (torch.sparse.mm(csr(values), weight, "amax") ** 3).sum()  # noqa: E731  # a function in one line
    assert "_sparse_mm_reduce_impl_backward" in refusal(reduced, (WEIGHT,))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("make", [coo, csr], ids=lambda make: make.__name__)
def test_products_by_the_values_are_those_of_the_dense_matrix(make: Make, use: str) -> None:
    sparsely, densely = USES[use]
    values, v = draw(4), draw(4, seed=1)
    expected = torch.autograd.functional.hessian(lambda values: densely(dense(values)).sum(), values) @ v
    func = lambda values: sparsely(make(values)).sum()  # noqa: E731  # a function in one line
    assert_values(hesse.vhp(func, values, v)[1], expected)
    assert_values(hesse.hvp(func, values, v)[1], expected)
    assert_values(hesse.Hessian(func, values) @ v, expected)


@pytest.mark.parametrize("make", [coo, csr, csc], ids=lambda make: make.__name__)
def test_values_read_back_are_twice_and_thrice_differentiable(make: Make) -> None:
    def func(values: Tensor) -> Tensor:
        matrix = make(values)
        return ((matrix.coalesce() if make is coo else matrix).values() ** 4).sum()

    values, v = draw(4), draw(4, seed=1)
    assert_values(hesse.vhp(func, values, v)[1], 12 * values**2 * v)
    x = values.requires_grad_()
    product = hesse.vhp(func, x, v, create_graph=True)[1]
    assert_values(torch.autograd.grad(product.sum(), x)[0], 24 * values * v)


def test_values_at_one_place_count_together() -> None:
    def func(values: Tensor) -> Tensor:
        return cubed(torch.sparse_coo_tensor(torch.tensor([[1, 1], [0, 0]]), values, (2, 2)))

    values, v = draw(2), draw(2, seed=1)
    assert_values(hesse.vhp(func, values, v)[1], (6 * values.sum() * v.sum()).expand(2))


def test_values_that_are_rows_are_right() -> None:
    values, v = draw(2, 3), draw(2, 3, seed=1)
    func = lambda values: cubed(torch.sparse_coo_tensor(torch.tensor([[0, 4]]), values, (5, 3)))  # noqa: E731  # a function in one line
    assert_values(hesse.vhp(func, values, v)[1], 6 * values * v)


@pytest.mark.parametrize("variable", ["the matrix", "values", "a constant"])
def test_products_through_sampled_addmm_are_those_of_dense_matrices(variable: str) -> None:
    values, left, right = draw(4), draw(3, 2), draw(3, 2, seed=1)
    v = vectors_like((values, left, right))

    def by_hand(values: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return ((0.2 * values + 0.6 * (left @ right.mT)[ROWS, COLUMNS]) ** 3).sum()

    def sampled(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return cubed(torch.sparse.sampled_addmm(matrix, left, right.mT, beta=0.2, alpha=0.6))

    expected = torch.autograd.functional.vhp(by_hand, (values, left, right), v)[1]
    if variable == "a constant":
        by_pair = torch.autograd.functional.vhp(lambda *pair: by_hand(values, *pair), (left, right), v[1:])[1]
        assert_values(hesse.vhp(lambda *pair: sampled(csr(values), *pair), (left, right), v[1:])[1], by_pair)
    elif variable == "values":
        func = lambda values, *pair: sampled(csr(values), *pair)  # noqa: E731  # a function in one line
        assert_values(hesse.vhp(func, (values, left, right), v)[1], expected)
    else:
        product = hesse.vhp(sampled, (csr(values), left, right), (csr(v[0]), *v[1:]))[1]
        assert_values((product[0].values(), *product[1:]), expected)


@pytest.mark.parametrize("reduction", ["sum", "mean", "amax", "amin"])
def test_products_through_mm_with_a_reduction_are_those_of_dense_matrices(reduction: str) -> None:
    def by_hand(values: Tensor, weight: Tensor) -> Tensor:
        products = values[:, None] * weight[COLUMNS]
        reduce = getattr(torch, reduction)
        return (torch.stack([reduce(products[:2], 0), reduce(products[2:], 0)]) ** 3).sum()

    def reduced(matrix: Tensor, weight: Tensor) -> Tensor:
        return (torch.sparse.mm(matrix, weight, reduction) ** 3).sum()

    values = draw(4)
    v = vectors_like((values, WEIGHT))
    expected = torch.autograd.functional.vhp(by_hand, (values, WEIGHT), v)[1]
    assert_values(hesse.vhp(lambda values, weight: reduced(csr(values), weight), (values, WEIGHT), v)[1], expected)
    by_matrix = hesse.vhp(reduced, (csr(values), WEIGHT), (csr(v[0]), v[1]))[1]
    assert_values((by_matrix[0].values(), by_matrix[1]), expected)


def test_a_layout_of_blocks_is_refused_by_name() -> None:
    def func(values: Tensor) -> Tensor:
        matrix = torch.sparse_bsr_tensor(torch.tensor([0, 1]), torch.tensor([0]), values, (2, 2))
        return cubed(matrix)

    with pytest.raises(NotImplementedError, match="but this one is sparse_bsr of size"):
        hesse.vhp(func, draw(1, 2, 2), draw(1, 2, 2))
