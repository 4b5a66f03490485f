"""``eigsh`` by magnitude, the default: both ends at once, ties, clusters and copies, against the eigenvalues put in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import hesse

from ..known_matrices import with_eigenvalues

BULK = np.linspace(-1, 1, 150)
SPECTRA = {
    "both signs in turn": np.concatenate([BULK, [6.0, -5.5, 5.0, -4.5, 4.0]]),
    "all negative": -np.concatenate([np.linspace(0, 1, 150), [3.0, 4.0, 5.0]]),
    "ties of opposite sign": np.concatenate([BULK, [3.0, -3.0, 2.0, -2.0]]),
    "copies at both ends": np.concatenate([BULK, [2.0] * 3, [-2.1] * 4, [1.9]]),
    "a cluster at each end": np.concatenate([BULK, 4 + 1e-5 * np.arange(4), -4.00002 - 1e-5 * np.arange(3)]),
    "one end flat, the other alone": np.concatenate([[10.0], np.linspace(-10.5, -9, 120)]),
    "nothing but signs": np.concatenate([np.ones(40), -np.ones(30), np.zeros(30)]),
    "graded": np.geomspace(1e-6, 1, 120) * np.where(np.arange(120) % 2, 1, -1),
}


def is_part_of(found: np.ndarray, values: np.ndarray, bound: float) -> bool:
    """Whether each value found is an eigenvalue of its own, however often it is there."""
    left = list(values)
    for value in found:
        nearest = int(np.argmin(np.abs(np.asarray(left) - value)))
        if abs(left.pop(nearest) - value) > bound:
            return False
    return True


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("k", "block_size", "basis_size"), [(1, 1, None), (4, 1, None), (7, 1, 24), (6, 3, None)])
@pytest.mark.one_in(11)
def test_the_largest_in_magnitude_are_found_with_their_signs(name, k, block_size, basis_size):
    values = SPECTRA[name]
    for dtype, seed in itertools.product((torch.float64, torch.float32), range(2)):
        words = {"block_size": block_size, "basis_size": basis_size, "max_products": 3000}
        found = hesse.eigsh(with_eigenvalues(values, dtype, seed=seed), k, rng=seed, **words)
        assert found.converged
        assert all(found.complete)
        sizes = np.sort(np.abs(values))[::-1][:k]
        # What is better by no more than sixteen times the bound of a residual may be missing.
        bound = 17 * max(1e-6 * sizes[0], 32 * torch.finfo(dtype).eps * np.abs(values).max())
        np.testing.assert_allclose(found.values.abs(), sizes, rtol=0, atol=bound)
        assert is_part_of(found.values.numpy(), values, bound)


def test_the_default_is_that_of_scipy():
    matrix = with_eigenvalues(SPECTRA["both signs in turn"])
    named, default = hesse.eigsh(matrix, 3, which="LM", rng=0), hesse.eigsh(matrix, 3, rng=0)
    assert torch.equal(named.values, default.values)
    np.testing.assert_allclose(default.values, [6.0, -5.5, 5.0], rtol=1e-9)


def test_a_better_one_of_the_other_sign_is_not_missed():
    # Begun at an eigenvector, the search sees nothing else until a look is taken for what is missing.
    values = np.concatenate([BULK, [5.0, -6.0]])
    found = hesse.eigsh(np.diag(values), 1, rng=0, start=torch.eye(152, dtype=torch.float64)[:, 150])
    assert found.converged
    np.testing.assert_allclose(found.values, [-6.0], rtol=1e-6)
    assert found.num_looking > 0


def test_the_smallest_in_magnitude_are_refused():
    with pytest.raises(ValueError, match=r"needs products with the inverse, and eigsh has none\. Ask for 'SA'"):
        hesse.eigsh(torch.eye(4), 1, which="SM")


def test_pairs_unpack_to_values_and_vectors():
    matrix = with_eigenvalues(SPECTRA["both signs in turn"])
    values, vectors = hesse.eigsh(matrix, 2, rng=0)
    torch.testing.assert_close(matrix @ vectors, vectors * values, atol=1e-4, rtol=0)
