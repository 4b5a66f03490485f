"""How wrong XTrace and XDiag truly are, over many seeds, beside what they say of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.special import stdtrit

import hesse

from ..known_matrices import with_eigenvalues

VALUES = {
    "1/i": 1 / np.arange(1.0, 201),
    "0.8^i": 0.8 ** np.arange(150.0),
    "flat": np.linspace(0.5, 1.5, 150),
    "indefinite": np.concatenate([-(0.7 ** np.arange(60.0)), 0.7 ** np.arange(60.0)]),
}
RUNS = [
    pytest.param(name, vectors, 300, marks=pytest.mark.exhaustive, id=f"{name}, {vectors} vectors")
    for name in VALUES
    for vectors in (8, 16, 32)
]


def ask(question, A, vectors, seeds, **words):
    with warnings.catch_warnings():
        # A tolerance of zero is met by no estimate.
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        return [question(A, tol=0, max_products=2 * vectors, rng=seed, **words) for seed in range(seeds)]


@pytest.mark.parametrize(("name", "vectors", "seeds"), [pytest.param("1/i", 8, 40, id="few"), *RUNS])
def test_xtrace_errs_as_far_as_it_says(name, vectors, seeds):
    values = VALUES[name]
    found = ask(hesse.trace, hesse.as_operator(with_eigenvalues(values)), vectors, seeds, method="xtrace")
    errors = np.array([each.estimate - values.sum() for each in found])
    said = np.array([each.error_estimate for each in found])
    # The root of the ratio of two mean squares, each of samples with tails.
    assert 0.75 <= np.sqrt(np.mean(errors**2) / np.mean(said**2)) <= 1.2
    covered = np.mean(np.abs(errors) <= stdtrit(vectors - 1, 0.975) * said)
    if (name, vectors) == ("0.8^i", 8):
        pytest.xfail(f"eight samples of a fast decaying spectrum are skewed: {covered:.2f} instead of 0.95")
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / seeds)


@pytest.mark.parametrize(("name", "vectors", "seeds"), [pytest.param("1/i", 16, 20, id="few"), *RUNS])
def test_xdiag_errs_as_far_as_it_says(name, vectors, seeds):
    matrix = with_eigenvalues(VALUES[name])
    found = ask(hesse.diagonal, hesse.as_operator(matrix), vectors, seeds, method="xdiag")
    errors = np.array([float((each.estimate - matrix.diagonal()).norm()) for each in found])
    said = np.array([each.error_estimate for each in found])
    assert 0.9 <= np.sqrt(np.mean(errors**2) / np.mean(said**2)) <= 1.1
    assert 0.9 <= np.mean(errors / said) <= 1.1


def test_what_xdiag_calls_converged_is():
    matrix = with_eigenvalues(VALUES["1/i"])
    A, diagonal = hesse.as_operator(matrix), matrix.diagonal()
    found = [hesse.diagonal(A, rng=seed) for seed in range(10)]
    assert all(each.converged for each in found)
    errors = np.array([float((each.estimate - diagonal).norm() / diagonal.norm()) for each in found])
    # An error as large as the tolerance is an error of one standard deviation.
    assert errors.max() <= 0.05 * 1.25
    assert np.mean(errors <= 0.05) >= 0.8
