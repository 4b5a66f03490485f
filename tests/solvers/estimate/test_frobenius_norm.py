"""``frobenius_norm`` against norms known in advance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesse

from ..known_matrices import with_eigenvalues

KNOWN = {
    "decaying": 0.8 ** np.arange(120.0),
    "flat": np.linspace(-1.5, 1.5, 100),
    "outliers": np.concatenate([np.linspace(-1, 1, 180), 1.5 ** np.arange(1, 11)]),
}


@pytest.mark.parametrize(
    ("name", "runs"), [("outliers", 30), *(pytest.param(name, 300, marks=pytest.mark.exhaustive) for name in KNOWN)]
)
def test_the_interval_covers_the_norm_as_often_as_it_says(name, runs):
    A, truth = hesse.as_operator(with_eigenvalues(KNOWN[name])), np.linalg.norm(KNOWN[name])
    found = [hesse.frobenius_norm(A, tol=0.05, rng=seed) for seed in range(runs)]
    least = 0.93 if runs == 300 else 0.93 - 2 * np.sqrt(0.95 * 0.05 / runs)
    assert np.mean([low <= truth <= high for low, high in (each.interval for each in found)]) >= least
    for each in found:
        assert each.converged
        assert max(each.interval[1] - each.estimate, each.estimate - each.interval[0]) <= 0.0501 * each.estimate


def test_a_matrix_without_symmetry_has_a_norm():
    matrix = torch.randn(200, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = hesse.frobenius_norm(matrix, tol=0.02, rng=0)
    assert np.isclose(found.estimate, float(matrix.norm()), rtol=0.03)


def test_few_products_suffice_where_singular_values_decay():
    A = with_eigenvalues(KNOWN["decaying"])
    assert hesse.frobenius_norm(A, tol=0.01, rng=0).num_products <= 100
    # Var ‖Az‖² = 2·(Σλ⁴ − …) would ask for so many samples of Hutchinson's alone.
    squares = KNOWN["decaying"] ** 2
    assert (1.96 / 0.02) ** 2 * 2 * (squares**2).sum() / squares.sum() ** 2 > 3000


def test_small_operators_and_zero_are_exact():
    assert np.allclose(hesse.frobenius_norm(torch.tensor([[-3.0]])).interval, 3.0, rtol=1e-5)
    assert hesse.frobenius_norm(torch.zeros(0, 0)).estimate == 0
    assert hesse.frobenius_norm(torch.zeros(50, 50), rng=0).converged


def test_products_that_run_out_are_said():
    with pytest.warns(hesse.ConvergenceWarning, match="Frobenius norm is only known to lie from"):
        found = hesse.frobenius_norm(with_eigenvalues(KNOWN["flat"]), tol=1e-6, max_products=40, rng=0)
    assert found.num_products <= 40
    with pytest.raises(ValueError, match="tol given to frobenius_norm should be at least 0 but is -1"):
        hesse.frobenius_norm(torch.eye(2), tol=-1)
    with pytest.raises(ValueError, match="max_products given to frobenius_norm should be at least 2 but is 1"):
        hesse.frobenius_norm(torch.eye(2), max_products=1)
