"""The bounds on eigenvalues that are not known, and what follows from them, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hesse._solvers.eigen.claim import Claim
from hesse._solvers.eigen.remainder import RISK, Remainder
from hesse._solvers.run import Products

from ..known_matrices import with_eigenvalues


def _remainder(matrix, known, seed):
    products = Products(matrix, "test", max_products=10**6, callback=None, progress=False)
    return Remainder(products, known, float(matrix.abs().max()), seed)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-1, 1, 300),
        np.geomspace(1e-8, 1, 300),
        np.r_[np.zeros(299), 1.0],
        np.r_[np.linspace(0, 1, 298), 1, 1],
    ],
    ids=["even", "graded", "one alone", "triple"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 20), marks=pytest.mark.exhaustive)], ids=str)
def test_no_eigenvalue_away_from_the_known_vectors_exceeds_the_bound(values, dtype, seeds):
    matrix = with_eigenvalues(values, dtype)
    _, vectors = torch.linalg.eigh(matrix.double())
    known = vectors[:, [3, 100, 299]].to(dtype)
    rest = vectors[:, [i for i in range(300) if i not in (3, 100, 299)]]
    left = np.linalg.eigvalsh((rest.mT @ matrix.double() @ rest).numpy())
    rounding = 100 * torch.finfo(dtype).eps
    for seed in seeds:
        remainder = _remainder(matrix, known, seed)
        assert (known.mT @ remainder.start).abs().max() <= rounding
        for _ in range(40):
            remainder.step()
            for side in (1, -1):
                best, bound = remainder.ends(side)
                largest = (side * left).max()
                assert best <= largest + rounding
                assert bound >= largest - rounding
            if remainder.exhausted:
                break
        # It is worth something too: of the width, a small part.
        assert bound - largest <= 0.05 * (left.max() - left.min())


def test_a_bound_is_wrong_where_the_starting_vector_is_as_unlucky_as_the_risk_allows_for():
    # Starting without any part along the largest eigenvector, what the risk is about, it is not seen.
    values = np.r_[np.linspace(0, 1, 199), 5.0]
    matrix = with_eigenvalues(values)
    largest = torch.linalg.eigh(matrix)[1][:, -1:]
    remainder = _remainder(matrix, torch.empty(200, 0, dtype=torch.float64), 0)
    start = remainder.start - largest @ (largest.mT @ remainder.start)
    remainder._vector = start / start.norm()
    for _ in range(10):
        remainder.step()
    assert remainder.ends(1)[1] < 5
    # With a part just above what the risk is about, it is.
    part = 1.1 * RISK / np.sqrt(2 * 200 / np.pi)
    remainder = _remainder(matrix, torch.empty(200, 0, dtype=torch.float64), 0)
    remainder._vector = np.sqrt(1 - part**2) * start / start.norm() + part * largest
    for _ in range(10):
        remainder.step()
        assert remainder.ends(1)[1] >= 5


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_a_claim_follows_only_if_it_is_true(count):
    generator = np.random.default_rng(0)
    followed = 0
    for _ in range(count):
        matrix = torch.from_numpy(generator.standard_normal((12, 12)))
        matrix = (
            matrix + matrix.mT + torch.diag(torch.from_numpy(generator.uniform(0, 20, 12)).sort(descending=True)[0])
        )
        theta, turn = torch.linalg.eigh(matrix[:5, :5])
        # The first five columns span the known vectors; R is what their products have outside.
        outside = matrix[5:, :5] @ turn
        bound = float(torch.linalg.eigvalsh(matrix[5:, 5:]).max())
        values = torch.linalg.eigvalsh(matrix)
        for threshold in np.linspace(bound, bound + 20, 9)[1:]:
            truth = int((values > threshold).sum())
            for allowed in range(6):
                claim = Claim(1, float(threshold), allowed)
                if claim.follows(theta, outside.mT @ outside, bound):
                    followed += 1
                    assert truth <= allowed
                assert Claim(-1, float(threshold), allowed).follows(
                    -theta, outside.mT @ outside, bound
                ) == claim.follows(theta, outside.mT @ outside, bound)
            assert not Claim(1, float(threshold), truth).refuted_by(theta)
    assert followed > 3 * count
    assert not Claim(1, 1.0, 5).follows(theta, outside.mT @ outside, 1.0)
