"""``trace`` against traces known in advance: exactness, the interval's coverage, tolerances, refusals."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

import hesse

from ..known_matrices import with_eigenvalues

SPREAD = np.concatenate([np.linspace(-1, 1, 180), 1.5 ** np.arange(1, 11)])


def test_the_interval_covers_the_trace_as_often_as_it_says():
    A = with_eigenvalues(SPREAD)
    truth = SPREAD.sum()
    hits, runs = 0, 400
    for seed in range(runs):
        low, high = hesse.trace(A, tol=0.1, rng=seed).interval
        hits += low <= truth <= high
    # Stopping early costs a little; chance alone would give 380 ± 4.4.
    assert hits >= 0.93 * runs


def test_the_estimate_is_the_mean_and_its_error_is_of_the_size_it_says():
    A = with_eigenvalues(SPREAD)
    found = [hesse.trace(A, tol=0.0, atol=1e9, rng=seed) for seed in range(300)]
    assert all(each.num_products == 30 for each in found)
    estimates = np.array([each.estimate for each in found])
    dense = A.numpy()
    exact = np.sqrt(2 * (np.sum(dense**2) - np.sum(np.diag(dense) ** 2)) / 30)
    assert abs(estimates.mean() - SPREAD.sum()) <= 4 * exact / np.sqrt(300)
    assert np.isclose(np.mean([each.standard_error for each in found]), exact, rtol=0.05)


def test_the_interval_is_students():
    found = hesse.trace(with_eigenvalues(SPREAD), confidence=0.8, atol=1e9, rng=0)
    half = stats.t.ppf(0.9, 29) * found.standard_error
    assert np.allclose(found.interval, (found.estimate - half, found.estimate + half))
    assert found.confidence == 0.8


@pytest.mark.parametrize("n", [1, 5, 30])
def test_small_operators_are_read_off_exactly(n):
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    found = hesse.trace(matrix)
    assert np.isclose(found.estimate, float(torch.trace(matrix)))
    assert found.standard_error == 0
    assert found.interval == (found.estimate, found.estimate)
    assert found.converged
    assert found.num_products == n


def test_a_matrix_without_symmetry_has_a_trace():
    matrix = torch.randn(50, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = hesse.trace(matrix, atol=8.0, rng=0)
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
        found = hesse.trace(with_eigenvalues(SPREAD), tol=0.0, rng=0, callback=lambda p: p.num_products >= 46)
    assert found.num_products == 46
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
