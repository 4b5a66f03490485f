"""``trace`` against traces known in advance: exactness, the interval's coverage, tolerances, refusals."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

import hesse

from ..known_matrices import with_eigenvalues

SPREAD = np.concatenate([np.linspace(-1, 1, 180), 1.5 ** np.arange(1, 11)])


METHODS = pytest.mark.parametrize("method", ["hutchinson", "hutch++", "auto"])
KNOWN = {
    "outliers": SPREAD,
    "decaying": 0.8 ** np.arange(120.0),
    "flat": np.linspace(0.5, 1.5, 100),
    "indefinite": np.linspace(-1, 2, 100),
}


def coverage(method, eigenvalues, runs):
    A, truth = hesse.as_operator(with_eigenvalues(eigenvalues)), eigenvalues.sum()
    intervals = [hesse.trace(A, method=method, tol=0.15, rng=seed).interval for seed in range(runs)]
    return np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in intervals])


@pytest.mark.parametrize(("method", "name"), [("hutchinson", "outliers"), ("auto", "decaying")])
def test_an_interval_covers_the_trace_as_often_as_it_says_in_a_few_runs(method, name):
    # Where 95 of 100 are covered, fewer than 26 of 30 are in 1.6 % of all cases.
    assert coverage(method, KNOWN[name], 30) >= 0.93 - 2 * np.sqrt(0.95 * 0.05 / 30)


@pytest.mark.exhaustive
@METHODS
@pytest.mark.parametrize("eigenvalues", KNOWN.values(), ids=KNOWN.keys())
def test_every_interval_covers_the_trace_as_often_as_it_says(method, eigenvalues):
    # Stopping early costs a little; chance alone would give 950 ± 7 of 1000.
    assert coverage(method, eigenvalues, 1000) >= 0.93


@METHODS
def test_each_method_finds_the_trace_in_float32_and_of_matrices_without_symmetry(method):
    A = with_eigenvalues(SPREAD, torch.float32)
    found = hesse.trace(A, method=method, rng=0)
    assert found.converged
    assert abs(found.estimate - SPREAD.sum()) <= 0.1 * SPREAD.sum()
    skew = torch.randn(100, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = hesse.trace(A.double()[:100, :100] + skew - skew.mT, method=method, tol=0.2, max_products=5000, rng=0)
    assert found.converged
    truth = float(A.double().diagonal()[:100].sum())
    assert abs(found.estimate - truth) <= 0.3 * truth


def test_the_method_that_was_used_is_said():
    for method in ("hutchinson", "hutch++", "xtrace", "exact"):
        assert hesse.trace(with_eigenvalues(SPREAD), method=method, rng=0).method == method
    assert hesse.trace(torch.eye(20)).method == "exact"


@pytest.mark.parametrize("seeds", [12, pytest.param(36, marks=pytest.mark.exhaustive)])
def test_xtrace_gives_an_error_estimate_and_no_interval(seeds):
    A, truth = hesse.as_operator(with_eigenvalues(KNOWN["decaying"])), KNOWN["decaying"].sum()
    found = [hesse.trace(A, method="xtrace", tol=0.02, rng=seed) for seed in range(seeds)]
    assert all(each.converged and np.isnan(each.standard_error) for each in found)
    assert all(each.interval == (-np.inf, np.inf) for each in found)
    errors = np.array([each.estimate - truth for each in found])
    estimates = np.array([each.error_estimate for each in found])
    # Of the right size in the mean, which is all that it says.
    within = 2 * np.sqrt(36 / seeds)  # of few seeds one with a long tail counts for more
    assert 1 / within <= np.sqrt((errors**2).mean() / (estimates**2).mean()) <= within
    assert abs(errors.mean()) <= 4 * errors.std() / np.sqrt(seeds)
    # Leaving out is exact: many a probe would not tell the decaying spectrum by fewer than this.
    assert np.mean([each.num_products for each in found]) <= 45


def test_xtrace_is_the_mean_over_bases_with_one_vector_left_out():
    matrix = with_eigenvalues(KNOWN["decaying"][:60])
    found = hesse.trace(matrix, method="xtrace", atol=1e9, rng=7)
    assert found.num_products == 16
    probes = hesse.as_operator(matrix).randn(8, np.random.default_rng(7))

    def estimate(i, left_out):
        others = [j for j in range(8) if j not in left_out]
        basis, _ = torch.linalg.qr(matrix @ probes[:, others])
        rest = probes[:, i] - basis @ (basis.mT @ probes[:, i])
        rest = rest * np.sqrt(60 - len(others)) / rest.norm()
        return float((basis.mT @ matrix @ basis).trace() + rest @ matrix @ rest)

    by_hand = np.array([estimate(i, {i}) for i in range(8)])
    assert np.isclose(found.estimate, by_hand.mean())
    # What one estimate changes by another one's vector: the mean product of such changes is a covariance.
    changes = np.array([[by_hand[i] - estimate(i, {i, j}) for j in range(8)] for i in range(8)])
    covariance = max((changes * changes.T).sum() / (8 * 7), 0.0)
    assert np.isclose(found.error_estimate, np.sqrt(by_hand.var(ddof=1) / 8 + covariance))


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_basis_of_the_whole_range_reads_the_trace_off(rank, dtype):
    A = with_eigenvalues(np.concatenate([np.arange(1.0, rank + 1), np.zeros(200 - rank)]), dtype)
    truth = rank * (rank + 1) / 2
    for method in ("auto", "hutch++", "xtrace"):
        found = hesse.trace(A, method=method, tol=1e-4, rng=1)
        assert found.converged
        assert abs(found.estimate - truth) <= 1e-4 * truth
        assert found.num_products <= 16 + rank + 1 + 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("question", ["trace", "diagonal"])
def test_what_a_range_that_seems_exhausted_leaves_out_is_within_the_error(question, dtype):
    # Three large eigenvalues of each sign, and others that are rounding beside them. The error was zero.
    small = 0.3 * torch.finfo(dtype).eps
    matrix = with_eigenvalues(np.r_[np.ones(3), -np.ones(3), np.full(294, small)], dtype)
    truth = matrix.double().diagonal()
    for seed in range(3):
        if question == "trace":
            with pytest.warns(hesse.ConvergenceWarning, match="the trace is only known as"):
                found = hesse.trace(matrix, method="xtrace", rng=seed)
            missed = abs(found.estimate - float(truth.sum()))
            assert not found.converged
        else:
            found = hesse.diagonal(matrix, method="xdiag", rng=seed)
            missed = float((found.estimate.double() - truth).norm())
            assert found.converged
        assert found.num_products < 30
        assert missed <= found.error_estimate <= 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("max_products", [2, 3])
def test_a_lone_vector_of_xtrace_says_nothing_of_its_error(max_products):
    # It was said to have none.
    with pytest.warns(hesse.ConvergenceWarning, match="the trace is only known as .* ± inf"):
        found = hesse.trace(np.diag(np.arange(1.0, 101)), method="xtrace", max_products=max_products, rng=0)
    assert not found.converged
    assert found.error_estimate == np.inf


@METHODS
def test_the_zero_operator_has_trace_zero(method):
    for size in (1, 50):
        found = hesse.trace(torch.zeros(size, size), method=method, rng=0)
        assert found.estimate == 0
        assert found.converged
    assert hesse.trace(torch.zeros(50, 50), method="xtrace", rng=0).estimate == 0


def test_hutchplusplus_splits_a_budget_without_a_tolerance_in_thirds():
    A = hesse.as_operator(with_eigenvalues(KNOWN["decaying"]))
    with pytest.warns(hesse.ConvergenceWarning):
        found = hesse.trace(A, method="hutch++", tol=0.0, max_products=90, rng=0)
    assert found.num_products == 90
    assert abs(found.estimate - KNOWN["decaying"].sum()) <= 1e-2
    low, high = found.interval
    assert high - low <= 0.05


@METHODS
def test_no_method_exceeds_its_budget(method):
    for budget in (2, 3, 17, 31, 40, 77):
        with pytest.warns(hesse.ConvergenceWarning):
            found = hesse.trace(with_eigenvalues(SPREAD), method=method, tol=1e-9, max_products=budget, rng=0)
        assert found.num_products <= budget
        assert np.isfinite(found.estimate)


def test_an_exact_trace_beyond_the_budget_is_refused():
    with pytest.raises(ValueError, match="exact trace needs 40 products but max_products given to trace is 39"):
        hesse.trace(torch.eye(40), method="exact", max_products=39)
    with pytest.raises(ValueError, match="method given to trace should be one of 'auto', 'hutchinson'"):
        hesse.trace(torch.eye(40), method="lanczos")


@pytest.mark.parametrize("seeds", [60, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_the_estimate_is_the_mean_and_its_error_is_of_the_size_it_says(seeds):
    A = with_eigenvalues(SPREAD)
    found = [hesse.trace(A, method="hutchinson", tol=0.0, atol=1e9, rng=seed) for seed in range(seeds)]
    assert all(each.num_products == 30 for each in found)
    estimates = np.array([each.estimate for each in found])
    dense = A.numpy()
    exact = np.sqrt(2 * (np.sum(dense**2) - np.sum(np.diag(dense) ** 2)) / 30)
    assert abs(estimates.mean() - SPREAD.sum()) <= 4 * exact / np.sqrt(seeds)
    assert np.isclose(np.mean([each.standard_error for each in found]), exact, rtol=0.05 * np.sqrt(300 / seeds))


def test_the_interval_is_students_corrected_for_skewness():
    A = hesse.as_operator(with_eigenvalues(SPREAD))
    found = hesse.trace(A, method="hutchinson", confidence=0.8, atol=1e9, rng=0)
    generator = np.random.default_rng(0)
    probes = torch.cat([A.signs(16, generator), A.signs(14, generator)], dim=1)
    samples = (probes * (A @ probes)).sum(dim=0).numpy()
    t = stats.t.ppf(0.9, 29)
    half = stats.sem(samples) * (t + abs(stats.skew(samples)) * (2 * t**2 + 1) / (6 * np.sqrt(30)))
    assert np.isclose(found.standard_error, stats.sem(samples))
    assert np.allclose(found.interval, (samples.mean() - half, samples.mean() + half))
    assert found.confidence == 0.8


@pytest.mark.parametrize("n", [1, 5, 30])
def test_small_operators_are_read_off_exactly(n):
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    found = hesse.trace(matrix)
    assert np.isclose(found.estimate, float(torch.trace(matrix)))
    assert found.standard_error == 0
    # As wide as rounding, and no wider.
    low, high = found.interval
    assert low <= float(torch.trace(matrix)) <= high
    assert high - low <= 1e-13 * float(matrix.abs().sum())
    assert found.converged
    assert found.num_products == n


def test_a_matrix_without_symmetry_has_a_trace():
    matrix = torch.randn(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = hesse.trace(matrix, method="hutchinson", atol=8.0, rng=0)
    low, high = found.interval
    assert found.converged
    assert low <= float(torch.trace(matrix)) <= high


def test_signs_read_a_diagonal_matrix_exactly():
    found = hesse.trace(torch.diag(torch.linspace(0, 1, 101, dtype=torch.float64)), tol=0.0, atol=1e-9, rng=0)
    assert found.converged
    assert np.isclose(found.estimate, 50.5)
    assert found.num_products == 30


def test_a_trace_of_zero_stops_by_the_absolute_tolerance():
    values = np.concatenate([np.linspace(-1, 1, 100)])
    found = hesse.trace(with_eigenvalues(values), tol=0.0, atol=3.0, rng=0)
    assert found.converged
    assert abs(found.estimate) <= 3
    with pytest.warns(hesse.ConvergenceWarning, match="trace has made its 40 products but the trace is only known as"):
        found = hesse.trace(with_eigenvalues(values), tol=0.01, max_products=40, rng=0)
    assert not found.converged
    assert found.num_products == 40


def test_a_callback_stops_it_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hesse.trace(with_eigenvalues(SPREAD), tol=0.0, rng=0, callback=lambda p: p.num_products >= 16)
    assert found.num_products == 16
    assert not found.converged


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tol": -1.0}, "tol given to trace should be at least 0 but is -1.0."),
        ({"atol": float("nan")}, "atol given to trace should be at least 0 but is nan."),
        ({"confidence": 1.0}, "confidence given to trace should be between 0 and 1 but is 1.0."),
        ({"max_products": 1}, "max_products given to trace should be at least 2 but is 1."),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hesse.trace(torch.eye(40), **words)


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"trace needs a square operator but got one of shape \(2, 3\)\."):
        hesse.trace(torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", range(40, 60))
def test_samples_that_are_all_equal_are_no_more_exact_than_their_rounding(size: int, dtype: torch.dtype) -> None:
    values = torch.linspace(0.1, 1, size, dtype=dtype)
    low, high = hesse.trace(torch.diag(values), max_products=39, rng=0).interval
    assert low <= math.fsum(values.tolist()) <= high
    low, high = hesse.frobenius_norm(torch.diag(values), max_products=39, rng=0).interval
    assert low <= math.sqrt(math.fsum([value**2 for value in values.tolist()])) <= high
