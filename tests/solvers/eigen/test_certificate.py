"""``certify=True``: residuals by true products, counted apart, against residuals in double precision."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import hesse

from ..known_matrices import with_eigenvalues
from .test_eigsh import SPREAD, Counting


class Drifting(Counting):
    """A matrix whose products are right until so many were made, and then off: what no stored product can tell."""

    def __init__(self, matrix, right):
        super().__init__(matrix)
        self._right = right

    def matmat(self, V):
        images = super().matmat(V)
        return images if self.products <= self._right else images + 0.01 * V


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.one_in(3)
def test_true_residuals_cost_a_product_for_each_pair_counted_apart(dtype, block_size):
    A, plain = (Counting(with_eigenvalues(SPREAD, dtype)) for _ in range(2))
    found = hesse.eigsh(A, (2, 4), which="BE", rng=0, certify=True, block_size=block_size)
    without = hesse.eigsh(plain, (2, 4), which="BE", rng=0, block_size=block_size)
    assert (found.num_certificate_products, without.num_certificate_products) == (6, 0)
    assert found.num_products == without.num_products == plain.products
    assert A.products == found.num_products + 6
    assert found.converged
    X = found.vectors.double()
    truth = (A.matrix.double() @ X - X * found.values).norm(dim=0)
    rounding = 20 * torch.finfo(dtype).eps * abs(SPREAD).max()
    np.testing.assert_allclose(found.residuals, truth, atol=rounding, rtol=1e-3)
    assert torch.equal(found.vectors, without.vectors)


def test_the_budget_does_not_bound_a_certificate_and_what_is_known_by_then_is_certified_too():
    A = Counting(with_eigenvalues(np.linspace(0, 1, 300)))
    with pytest.warns(hesse.ConvergenceWarning, match="eigsh has made its 20 products but"):
        found = hesse.eigsh(A, 4, max_products=20, rng=0, certify=True)
    assert (found.num_products, found.num_certificate_products, A.products) == (20, 4, 24)
    truth = (A.matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
    np.testing.assert_allclose(found.residuals, truth, rtol=1e-6)


def test_a_true_residual_that_is_too_large_is_not_called_converged():
    matrix = with_eigenvalues(SPREAD)
    made = hesse.eigsh(matrix, 3, rng=0).num_products
    assert hesse.eigsh(Drifting(matrix, made), 3, rng=0).converged
    with pytest.warns(hesse.ConvergenceWarning, match="0 of 3 eigenpairs have converged"):
        found = hesse.eigsh(Drifting(matrix, made), 3, rng=0, certify=True)
    assert not found.converged
    assert found.bounds == ("none",) * 3
    np.testing.assert_allclose(found.residuals, 0.01, rtol=1e-3)


def test_a_user_who_stops_a_search_is_not_made_to_wait_for_a_certificate():
    A = Counting(with_eigenvalues(np.linspace(0, 1, 99)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hesse.eigsh(A, 3, rng=0, certify=True, callback=lambda progress: progress.num_products == 7)
    assert found.num_certificate_products == 0
    assert A.products == found.num_products == 7
