"""``diagonal`` against diagonals known in advance."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import hesse

from ..known_matrices import with_eigenvalues

DECAYING = with_eigenvalues(0.8 ** np.arange(150.0))
FLAT = with_eigenvalues(np.linspace(0.5, 1.5, 150))


@pytest.mark.parametrize("method", ["auto", "hutchinson", "xdiag", "exact"])
@pytest.mark.parametrize("matrix", [DECAYING, FLAT], ids=["decaying", "flat"])
@pytest.mark.one_in(5)
def test_the_error_is_of_the_size_that_is_said(method, matrix):
    errors, said = [], []
    for seed in range(10):
        found = hesse.diagonal(matrix, method=method, tol=0.1, max_products=5000, rng=seed)
        assert found.converged
        assert torch.isclose(found.errors.norm(), torch.tensor(found.error_estimate, dtype=torch.float64))
        errors.append(float((found.estimate - matrix.diagonal()).norm()))
        said.append(found.error_estimate)
    if method == "exact":
        assert max(errors) == max(said) == 0
    else:
        assert np.sqrt(np.mean(np.square(errors))) <= 1.5 * np.sqrt(np.mean(np.square(said))) + 1e-12


def test_auto_takes_a_third_of_hutchinsons_products_where_eigenvalues_decay_and_no_more_elsewhere():
    for matrix, share in ((DECAYING, 1 / 3), (FLAT, 1.0)):
        counts = {}
        for method in ("auto", "hutchinson"):
            found = [hesse.diagonal(matrix, method=method, tol=0.1, max_products=5000, rng=seed) for seed in range(3)]
            counts[method] = np.mean([each.num_products for each in found])
        assert counts["auto"] <= share * counts["hutchinson"]


def test_xdiag_is_the_mean_over_bases_with_one_vector_left_out():
    found = hesse.diagonal(DECAYING, method="xdiag", atol=1e9, rng=3)
    assert found.num_products == 32
    probes = hesse.as_operator(DECAYING).signs(16, np.random.default_rng(3))
    by_hand = []
    for i in range(16):
        basis, _ = torch.linalg.qr(DECAYING @ probes[:, [j for j in range(16) if j != i]])
        image = DECAYING @ probes[:, i]
        rest = probes[:, i] * (image - basis @ (basis.mT @ image))
        by_hand.append((basis @ (basis.mT @ DECAYING)).diagonal() + rest)
    by_hand = torch.stack(by_hand)
    assert torch.allclose(found.estimate, by_hand.mean(dim=0))
    # The estimates have fifteen vectors in common, so their mean varies more than that of independent ones.
    assert float(found.errors.norm()) > float(by_hand.std(dim=0).norm()) / 4


def test_hutchinsons_standard_errors_are_those_of_the_samples():
    found = hesse.diagonal(FLAT, method="hutchinson", atol=1e9, rng=0)
    assert found.num_products == 32
    entries = FLAT.numpy() ** 2
    expected = np.sqrt((entries.sum(axis=1) - np.diag(entries)) / 32)
    assert np.allclose(found.errors.numpy().mean(), expected.mean(), rtol=0.1)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_diagonal_is_read_off(rank):
    matrix = with_eigenvalues(np.concatenate([np.arange(1.0, rank + 1), np.zeros(97)]))
    for seed in range(10):
        found = hesse.diagonal(matrix, tol=1e-8, rng=seed)
        # One product shows that nothing is left; the rounding of nearly parallel images may count as one direction.
        assert found.num_products in (17 + rank, 18 + rank)
        assert torch.allclose(found.estimate, matrix.diagonal())


def test_a_lone_sample_says_nothing_of_its_error():
    # It was said to have none.
    A = with_eigenvalues(np.arange(1.0, 101))
    words = {"method": "hutchinson", "rng": 0, "memory": 4 * 100 * 8, "callback": lambda progress: True}
    found = hesse.diagonal(A, **words)
    assert found.num_products == 1
    assert not found.converged
    assert found.error_estimate == np.inf


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.one_in(3)
def test_probes_that_agree_do_not_show_that_the_range_is_found(n):
    matrix = torch.eye(n, dtype=torch.float64) + torch.ones(n, n, dtype=torch.float64) / 3
    for seed in range(20):
        found = hesse.diagonal(matrix, method="xdiag", rng=seed)
        assert found.converged
        # With so few entries every basis becomes whole, and then the diagonal is read off.
        assert torch.allclose(found.estimate, matrix.diagonal())
    with pytest.warns(hesse.ConvergenceWarning):
        # Of two probes that agree, nothing is known of the other direction, and no product is left to ask.
        short = [hesse.diagonal(matrix, method="xdiag", max_products=2, rng=seed) for seed in range(20)]
    assert not any(found.converged for found in short)


@pytest.mark.parametrize("n", [0, 1, 30])
def test_small_operators_are_read_off_exactly(n):
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
    found = hesse.diagonal(matrix)
    assert torch.equal(found.estimate, matrix.diagonal())
    assert found.error_estimate == 0
    assert found.num_products == n


def test_a_matrix_without_symmetry_has_a_diagonal():
    matrix = torch.randn(100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = hesse.diagonal(matrix, method="hutchinson", atol=5.0, rng=0)
    assert float((found.estimate - matrix.diagonal()).norm()) <= 6
    with pytest.raises(ValueError, match="diagonal needs a symmetric operator"):
        hesse.diagonal(matrix, method="xdiag")


def test_it_has_the_structure_of_the_inputs_by_unflatten():
    H = hesse.Hessian(lambda p: (p["a"] ** 3).sum() + p["b"] ** 2, {"a": torch.tensor([1.0, 2.0]), "b": torch.ones(())})
    found = H.unflatten(hesse.diagonal(H).estimate)
    assert torch.equal(found["a"], torch.tensor([6.0, 12.0]))
    assert torch.equal(found["b"], torch.tensor(2.0))


@pytest.mark.parametrize("method", ["auto", "hutchinson", "xdiag"])
def test_products_that_run_out_are_said_and_never_exceeded(method):
    for budget in (2, 5, 33, 50):
        with pytest.warns(hesse.ConvergenceWarning, match="diagonal is only known to"):
            found = hesse.diagonal(FLAT, method=method, tol=1e-6, max_products=budget, rng=0)
        assert found.num_products <= budget
        assert not found.converged
    stopped = hesse.diagonal(FLAT, method=method, tol=1e-6, rng=0, callback=lambda p: p.num_products >= 30)
    assert not stopped.converged


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"method": "lu"}, "method given to diagonal should be one of 'auto', 'hutchinson', 'xdiag', 'exact' but is"),
        ({"tol": -1.0}, "tol given to diagonal should be at least 0 but is -1.0."),
        ({"max_products": 1}, "max_products given to diagonal should be at least 2 but is 1."),
        ({"method": "exact", "max_products": 9}, "exact diagonal needs 40 products but max_products given to diagonal"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hesse.diagonal(torch.eye(40), **words)
