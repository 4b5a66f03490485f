"""How many products ``trace`` takes to one percent, over a table of spectra, beside Hutchinson's estimator."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import hesse

from ..known_matrices import with_eigenvalues


def rows(table, *quick):
    """The table's rows, all but the quick ones for exhaustive runs."""
    return [
        pytest.param(values, id=name, marks=() if name in quick else pytest.mark.exhaustive)
        for name, values in table.items()
    ]


INDEX = np.arange(1.0, 401)
DECAYING = {
    "1/i": 1 / INDEX,
    "i^-1.5": INDEX**-1.5,
    "0.95^i": 0.95**INDEX,
    "0.8^i": 0.8**INDEX,
    "low rank": np.concatenate([np.ones(5), np.zeros(395)]),
    "low rank and noise": np.concatenate([np.linspace(5, 10, 10), np.full(390, 1e-3)]),
    "a network's": np.concatenate([np.linspace(-0.01, 0.01, 390), 2.0 ** np.arange(10)]),
}
OTHERS = {
    "flat": np.ones(400),
    "uniform": np.linspace(0, 1, 400),
    "indefinite": np.linspace(-1, 3, 400),
    "slow": INDEX**-0.5,
    "a little faster": INDEX**-0.6,
    "one outlier": np.concatenate([np.linspace(0, 1, 399), [5.0]]),
    "twenty outliers": np.concatenate([np.linspace(0, 1, 380), np.full(20, 2.0)]),
    "a step": np.concatenate([np.linspace(0, 1, 350), np.full(50, 4.0)]),
    "small": np.linspace(0, 1, 40),
}


def mean_products(eigenvalues, method):
    A = hesse.as_operator(with_eigenvalues(eigenvalues, seed=1))
    with warnings.catch_warnings():
        # Hutchinson's estimator does not get there on some; then it takes more than is counted.
        warnings.simplefilter("ignore" if method == "hutchinson" else "error", hesse.ConvergenceWarning)
        seeds = 10 if method == "auto" else 2  # whose counts are large, and vary little
        found = [hesse.trace(A, method=method, tol=0.01, max_products=4000, rng=seed) for seed in range(seeds)]
    if method == "auto":
        errors = np.array([each.estimate - eigenvalues.sum() for each in found])
        assert np.sqrt((errors**2).mean()) <= 0.01 * eigenvalues.sum()
    return np.mean([each.num_products for each in found])


@pytest.mark.parametrize("eigenvalues", rows(DECAYING, "0.95^i"))
def test_auto_takes_at_most_a_fifth_of_hutchinsons_products_where_eigenvalues_decay(eigenvalues):
    assert 5 * mean_products(eigenvalues, "auto") <= mean_products(eigenvalues, "hutchinson")


@pytest.mark.parametrize("eigenvalues", rows(OTHERS, "flat", "small"))
def test_auto_never_takes_many_more_than_hutchinson(eigenvalues):
    assert mean_products(eigenvalues, "auto") <= 1.3 * mean_products(eigenvalues, "hutchinson")
