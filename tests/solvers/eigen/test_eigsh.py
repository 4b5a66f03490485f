"""``eigsh`` against eigenvalues known in advance and NumPy's dense ones: every end, clusters, restarts, refusals."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch

import hesse
from hesse._operators.operator import Operator

from ..known_matrices import with_eigenvalues

SPREAD = np.concatenate([np.linspace(-3, -1, 20), np.linspace(-0.5, 0.5, 140), 1.5 ** np.arange(1, 11)])


class Counting(Operator):
    """A matrix that counts the vectors it is multiplied with."""

    def __init__(self, matrix):
        self.matrix, self.products = matrix, 0
        self.shape, self.dtype, self.device = tuple(matrix.shape), matrix.dtype, matrix.device
        self.symmetric = True

    def matmat(self, V):
        self.products += V.shape[1]
        return self.matrix @ V


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("which", "k", "expected"),
    [
        ("LA", 5, np.sort(SPREAD)[::-1][:5]),
        ("SA", 5, np.sort(SPREAD)[:5]),
        ("LM", 5, SPREAD[np.argsort(-abs(SPREAD))][:5]),
        ("BE", 5, np.sort(SPREAD)[[0, 1, -3, -2, -1]]),
        ("BE", (3, 2), np.sort(SPREAD)[[0, 1, 2, -2, -1]]),
        ("BE", (0, 2), np.sort(SPREAD)[[-2, -1]]),
        ("LA", 1, [SPREAD.max()]),
    ],
)
@pytest.mark.one_in(3)
def test_each_end_of_a_known_spectrum(which, k, expected, dtype):
    A = Counting(with_eigenvalues(SPREAD, dtype))
    found = hesse.eigsh(A, k, which=which, tol=1e-6, rng=0)
    assert found.converged
    assert found.num_products == A.products <= 170
    eps = torch.finfo(dtype).eps
    # For a symmetric matrix the error of an eigenvalue is at most its residual.
    assert np.abs(found.values.numpy() - expected).max() <= max(1e-6, 100 * eps) * abs(SPREAD).max()
    vectors = found.vectors
    assert vectors.dtype == dtype
    assert (vectors.mT @ vectors - torch.eye(len(expected), dtype=dtype)).abs().max() <= 1e3 * eps
    residuals = (A.matrix @ vectors - vectors * found.values.to(dtype)).norm(dim=0).double()
    assert torch.allclose(residuals, found.residuals, atol=100 * eps * abs(SPREAD).max(), rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("outer", "k"),
    [
        ([10.0, 10.0, 9.0, 8.0, 7.0], 3),
        ([10.0] * 5 + [9.0, 8.0], 5),
        ([10.0] * 5 + [9.0, 8.0], 7),
        ([10.0, 9.0, 9.0], 2),
    ],
    ids=str,
)
@pytest.mark.one_in(8)
def test_copies_that_the_starting_vector_cannot_see_are_found(outer, k, dtype):
    # A Krylov space of one vector holds one copy; SciPy's eigsh answers 10, 10, 9, 8, 7 to the second of these.
    values = np.concatenate([outer, np.linspace(-1, 6, 700)])
    for seed in range(3):
        for basis_size in (None, 2 * k + 20):
            found = hesse.eigsh(with_eigenvalues(values, dtype), k, rng=seed, basis_size=basis_size, max_products=1000)
            assert found.converged
            assert np.allclose(found.values, outer[:k], rtol=2e-5)
            assert found.num_looking < found.num_products < 300


def test_copies_at_both_ends_are_found():
    values = np.concatenate([[-5.0, -5.0, -4.0], np.linspace(-1, 1, 500), [7.0, 8.0, 8.0]])
    found = hesse.eigsh(with_eigenvalues(values), (2, 2), which="BE", rng=0)
    assert found.converged
    assert np.allclose(found.values, [-5, -5, 8, 8])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_operator_does_not_matter(scale):
    values = np.concatenate([[3.0, 3.0], [2.0] * 20, [1.0] * 20])
    found = hesse.eigsh(with_eigenvalues(values, torch.float32) * scale, 4, rng=0)
    assert found.converged
    assert np.allclose(found.values / scale, [3, 3, 2, 2], rtol=1e-5)


def test_one_end_can_be_complete_where_the_other_has_not_converged():
    values = np.concatenate([np.linspace(0, 1, 800), [3.0, 4.0, 5.0]])
    with pytest.warns(hesse.ConvergenceWarning, match="3 of 5 eigenpairs have converged"):
        found = hesse.eigsh(with_eigenvalues(values), (2, 3), which="BE", rng=0, max_products=60)
    assert not found.converged
    assert found.complete == (False, False, True, True, True)
    assert found.bounds[:2] == ("none", "none")
    assert "none" not in found.bounds[2:]


def test_an_answer_that_may_miss_something_is_not_called_converged():
    values = np.concatenate([np.linspace(0, 1, 800), [3.0, 3.0, 5.0]])
    A = with_eigenvalues(values)
    whole = hesse.eigsh(A, 2, rng=0)
    assert whole.converged
    with pytest.warns(hesse.ConvergenceWarning, match="whether better ones than the 2 eigenpairs found are missing"):
        found = hesse.eigsh(A, 2, rng=0, max_products=whole.num_products - 1)
    assert "none" not in found.bounds
    assert found.complete == (False, False)
    assert not found.converged
    assert found.num_looking == whole.num_looking - 1


def test_restarts_in_a_small_basis_find_the_same_values():
    A = Counting(with_eigenvalues(SPREAD))
    for which, expected in (("LA", np.sort(SPREAD)[::-1][:4]), ("SA", np.sort(SPREAD)[:4])):
        found = hesse.eigsh(A, 4, which=which, basis_size=14, max_products=2000, rng=0)
        assert found.converged
        assert np.allclose(found.values, expected, rtol=1e-9)


def test_both_ends_with_restarts():
    found = hesse.eigsh(with_eigenvalues(SPREAD), 6, which="BE", basis_size=20, max_products=2000, rng=0)
    assert found.converged
    assert np.allclose(found.values, np.sort(SPREAD)[[0, 1, 2, -3, -2, -1]], rtol=1e-9)


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 2.0, 2.0, 1.0],
        [3.0] + [2.0] * 50 + [1.0] * 49,
        [1.0] * 40,
        [0.0] * 12,
        [5.0, 5.0, 5.0] + [0.0] * 30,
        [-2.0, -2.0] + [1.0] * 30,
        [7.0],
        [2.0, -3.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.one_in(7)
def test_multiple_eigenvalues_come_as_often_as_they_are_there(values, which, dtype):
    values = np.asarray(values)
    for k in range(1, min(len(values), 5) + 1):
        found = hesse.eigsh(with_eigenvalues(values, dtype), k, which=which, rng=k)
        ascending = np.sort(values)
        expected = {
            "LA": ascending[::-1][:k],
            "SA": ascending[:k],
            "LM": values[np.argsort(-abs(values), kind="stable")][:k],
            "BE": np.concatenate([ascending[: k // 2], ascending[len(values) - (k - k // 2) :]]),
        }[which]
        assert found.converged
        assert np.allclose(found.values, expected, atol=1e-5 if dtype == torch.float32 else 1e-12)
        gram = found.vectors.mT @ found.vectors
        assert torch.allclose(gram, torch.eye(k, dtype=dtype), atol=1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_all_eigenvalues_of_a_small_matrix(n):
    values = np.random.default_rng(n).standard_normal(n)
    found = hesse.eigsh(with_eigenvalues(values), k=n, which="LA", rng=0)
    assert found.converged
    assert found.num_products == n
    assert np.allclose(found.values, np.sort(values)[::-1], atol=1e-12)


def test_a_hessian_against_its_dense_matrix():
    weight = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    H = hesse.Hessian(lambda x: torch.logsumexp(weight @ x, 0) + (x**4).sum(), x)
    p = torch.softmax(weight @ x, 0)
    dense = weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight + torch.diag(12 * x**2)
    found = hesse.eigsh(H, k=4, rng=0)
    assert np.allclose(found.values, np.linalg.eigvalsh(dense)[::-1][:4], rtol=1e-9)


def test_which_bound_a_residual_meets():
    # A tolerance that rounding cannot reach: the other bound holds, but for none is it none.
    A = with_eigenvalues(SPREAD, torch.float32)
    assert set(hesse.eigsh(A, 3, tol=0.0, rng=0).bounds) == {"precision"}
    assert set(hesse.eigsh(A, 3, tol=1e-2, rng=0).bounds) == {"tol"}


def test_a_budget_that_is_too_small_gives_the_partial_answer_and_one_warning():
    A = Counting(with_eigenvalues(np.linspace(0, 1, 300)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = hesse.eigsh(A, 4, max_products=20, rng=0)
    assert [w.category for w in caught] == [hesse.ConvergenceWarning]
    assert caught[0].filename == __file__
    assert str(caught[0].message).startswith("eigsh has made its 20 products but 0 of 4 eigenpairs have converged.")
    assert not found.converged
    assert found.bounds == ("none",) * 4
    assert A.products == found.num_products == 20
    # What it has is still true: an eigenvalue within each residual, and none above the largest one there is.
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(np.linspace(0, 1, 300) - float(value)).min() <= residual
        assert value <= 1 + 1e-12


def test_a_callback_sees_the_progress_and_stops_it():
    seen = []

    def stop_after_seven(progress):
        seen.append(progress)
        return progress.num_products == 7

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hesse.eigsh(with_eigenvalues(np.linspace(0, 1, 99)), 3, rng=0, callback=stop_after_seven)
    assert not found.converged
    assert found.num_products == 7
    assert len(found.values) == 3
    assert [p.num_products for p in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert seen[0].question == "eigsh"
    assert seen[-1].status == "0 of 3 converged"


def test_a_seed_gives_the_same_answer():
    A = with_eigenvalues(SPREAD)
    first, second = hesse.eigsh(A, 2, rng=3), hesse.eigsh(A, 2, rng=3)
    assert torch.equal(first.vectors, second.vectors)


def test_a_value_at_the_other_end_that_is_found_late_is_not_missed_by_magnitude():
    values = np.concatenate([[10.0], np.linspace(-10.5, -9, 300)])
    found = hesse.eigsh(with_eigenvalues(values), 1, which="LM", tol=1e-3, max_products=900, rng=1)
    assert found.converged
    assert np.allclose(found.values, [-10.5], rtol=1e-3)


def test_numpy_and_scipy_matrices_are_taken():
    assert np.allclose(hesse.eigsh(np.diag([1.0, 5.0, 3.0]), 1).values, [5.0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"k": 0}, "k given to eigsh should be from 1 to 4, the operator's size, but is 0."),
        ({"k": 5}, "k given to eigsh should be from 1 to 4, the operator's size, but is 5."),
        ({"k": 2.5}, "k given to eigsh should be an int, or for which='BE' a pair of ints, but is 2.5."),
        ({"k": (1, 1)}, "k given to eigsh should be an int, or for which='BE' a pair of ints, but is (1, 1)."),
        ({"k": 1, "which": "XX"}, "which given to eigsh should be 'LA', 'SA', 'LM' or 'BE' but is 'XX'."),
        ({"k": 1, "tol": -1.0}, "tol given to eigsh should be at least 0 but is -1.0."),
        ({"k": 3, "max_products": 2}, "max_products given to eigsh should be at least k, 3, but is 2."),
        ({"k": 1, "basis_size": 2}, "basis_size given to eigsh should be at least 3 for k=1 but is 2."),
        (
            {"k": 1, "start": torch.ones(3)},
            "start given to eigsh should be vectors of shape (4,) or (4, j) but is (3,).",
        ),
        (
            {"k": 1, "start": torch.full((4,), torch.nan)},
            "start given to eigsh should be finite but holds infinities or NaNs.",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hesse.eigsh(torch.eye(4), **words)


def test_operators_that_are_not_symmetric_are_refused():
    with pytest.raises(ValueError, match="eigsh needs a square operator but got one of shape \\(2, 3\\)"):
        hesse.eigsh(torch.ones(2, 3), 1)
    with pytest.raises(ValueError, match="this Dense does not say that it is"):
        hesse.eigsh(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), 1)


def test_a_product_that_is_not_finite_is_named():
    class Breaking(Counting):
        def matmat(self, V):
            product = super().matmat(V)
            return product / 0 if self.products == 4 else product

    with pytest.raises(hesse.NonFiniteProductError, match=r"Product 4 of eigsh with the Breaking of shape \(99, 99\)"):
        hesse.eigsh(Breaking(with_eigenvalues(np.linspace(0, 1, 99))), 3, rng=0)


def test_products_too_large_for_their_precision_are_refused():
    # In the units of the first product, which are near 1e-35, the second one is beyond float32.
    A = torch.diag(torch.tensor([1e-35] + [1e35] * 8))
    with pytest.raises(hesse.NonFiniteProductError, match="Product 2 of eigsh is too large for the precision"):
        hesse.eigsh(A, 1, rng=0, start=torch.eye(9)[:, 0])


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_products_whose_squares_leave_the_precision_are_right(scale):
    found = hesse.eigsh(torch.diag(torch.linspace(1, 9, 9)) * scale, 1, rng=0)
    assert found.converged
    assert float(found.values) == pytest.approx(9 * scale, rel=1e-6)


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "values",
    [np.r_[1.0, 0.5, 1e-6 * np.linspace(-3, 3, 198)], 2.0 ** -np.arange(80.0), np.r_[1.0, 0.5, np.full(98, 1e-12)]],
    ids=["over a small bulk", "geometric", "over nearly nothing"],
)
@pytest.mark.one_in(5)
def test_eigenvalues_far_above_all_others_are_found_whatever_the_seed(values, dtype, block_size):
    A = torch.diag(torch.from_numpy(values)).to(dtype)
    for seed in range(8):
        found = hesse.eigsh(A, 2, rng=seed, block_size=block_size)
        assert found.converged
        assert torch.allclose(found.values, torch.tensor([1.0, 0.5], dtype=torch.float64), rtol=1e-4)


@pytest.mark.parametrize(("which", "k"), [("LA", 1), ("LA", 4), ("LM", 1)])
def test_a_search_that_begins_at_the_answer_of_a_near_operator_takes_fewer_products(which, k):
    matrix = with_eigenvalues(SPREAD)
    before = hesse.eigsh(matrix, k, which=which, rng=0)
    moved = matrix + 1e-4 * with_eigenvalues(SPREAD[::-1].copy())
    cold, warm = Counting(moved), Counting(moved)
    expected = hesse.eigsh(cold, k, which=which, tol=1e-8, rng=0)
    found = hesse.eigsh(warm, k, which=which, tol=1e-8, rng=0, start=before)
    assert found.converged
    torch.testing.assert_close(found.values, expected.values)
    assert warm.products < cold.products


@pytest.mark.parametrize(
    "start",
    [
        torch.eye(170, dtype=torch.float64)[:, 3],
        torch.eye(170, dtype=torch.float64)[:, [3, 3, 8]],
        torch.zeros(170, dtype=torch.float64),
        torch.eye(170, dtype=torch.float64),
        torch.ones(170, 2, dtype=torch.float32),
    ],
    ids=["another eigenvector", "twice the same", "zero", "more than there is room for", "of another dtype"],
)
def test_a_bad_beginning_costs_products_and_not_the_answer(start):
    found = hesse.eigsh(torch.diag(torch.from_numpy(SPREAD)), 3, basis_size=60, rng=0, start=start)
    assert found.converged
    np.testing.assert_allclose(found.values, np.sort(SPREAD)[::-1][:3], rtol=1e-6)
