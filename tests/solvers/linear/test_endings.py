"""What a solve says of its end holds, for small systems of every kind, by residuals in extended precision."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import hesse

from ..known_matrices import with_eigenvalues


def solved(A, b, **words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        return hesse.solve(A, b, **words)


def symmetric(rng, n):
    """Eigenvalues far apart, equal, of both signs or zero; a part of the matrices is badly scaled."""
    values = [
        2.0 ** rng.uniform(-20, 20, n),
        rng.integers(-2, 3, n).astype(float),
        np.where(rng.random(n) < 0.5, 0, rng.uniform(0.1, 10, n)),
        np.logspace(0, -rng.uniform(0, 14), n),
    ][rng.integers(4)]
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (turn * values * rng.choice([-1, 1], n if rng.random() < 0.5 else 1)) @ turn.T
    scales = np.ldexp(1.0, rng.integers(-8, 9, n)) if rng.random() < 0.25 else np.ones(n)
    return scales[:, None] * (A + A.T) * scales


def right_hand_side(rng, A):
    """Anything, in the range, an eigenvector, or of the null space, as far as rounding goes."""
    values, vectors = np.linalg.eigh(A)
    anything = rng.standard_normal(len(A))
    return [anything, A @ anything, vectors[:, rng.integers(len(A))], vectors[:, abs(values).argmin()]][rng.integers(4)]


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 2000), marks=pytest.mark.exhaustive)], ids=str)
@pytest.mark.parametrize("method", ["cg", "minres"])
def test_every_ending_holds_and_no_answer_is_worse_than_the_start(method, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        dtype = (torch.float32, torch.float64)[seed % 2]
        exact = symmetric(rng, int(rng.choice([1, 2, 3, 5, 8, 20])))
        b = torch.from_numpy(right_hand_side(rng, exact)).to(dtype)
        A = torch.from_numpy(exact).to(dtype)
        words = {"max_products": int(rng.integers(3, 20))} if rng.random() < 0.4 else {}
        found = solved(A, b, method=method, tol=float(rng.choice([0, 1e-10, 1e-6, 0.5])), **words)
        wide, x = A.numpy().astype(np.longdouble), found.solution.numpy().astype(np.longdouble)
        left = b.numpy() - wide @ x
        norm, residual = np.linalg.norm(exact), np.sqrt((left**2).sum())
        eps = np.sqrt(len(exact)) * torch.finfo(dtype).eps
        rounding = 50 * eps * (norm * np.sqrt((x**2).sum()) + float(b.norm()))
        assert abs(residual - float(found.residual_norms)) <= rounding, seed
        # With positive curvature alone, what conjugate gradients reach within their budget counts by its energy.
        if found.endings != ("max_products",):
            assert residual <= float(b.norm()) + rounding, seed
        if found.endings == ("least_squares",):
            size = np.sqrt(((wide @ left) ** 2).sum())
            assert size <= norm * (10 * eps ** (1 / 3) * residual + rounding), seed
        if found.curvature is not None:
            d = found.negative_curvature.numpy().astype(np.longdouble)
            assert d @ wide @ d < 0, seed


@pytest.mark.parametrize(
    ("n", "decades", "seed"),
    [(6, 8, 2), (6, 10, 1), (6, 10, 3), (20, 8, 1), (20, 8, 3), (6, 10, 4), (10, 9, 0), (10, 9, 6)],
)
@pytest.mark.one_in(3)
def test_small_eigenvalues_are_not_taken_for_a_null_space(n, decades, seed):
    """A first run of MINRES ends at residuals from 0.04 to 1.1, whose products with A are about 1e-8.

    On the way of the last three from there to a solution these products grow again.
    """
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    A = (turn * 10.0 ** torch.linspace(0, -decades, n, dtype=torch.float64)) @ turn.mT
    A, b = 0.5 * (A + A.mT), torch.randn(n, generator=generator, dtype=torch.float64)
    found = solved(A, b, method="minres")
    assert found.converged
    assert float((b - A @ found.solution).norm()) <= 1.001e-6 * float(b.norm())


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 20), marks=pytest.mark.exhaustive)], ids=str)
def test_a_system_with_a_solution_along_small_eigenvalues_is_not_said_to_have_none(seeds):
    """Rounding leaves residuals along eigenvalues from 1e-13 to 1e-9 of the largest, which A hardly moves."""
    endings = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        small = 10 ** rng.uniform(-13, -9, 2) * [1, rng.choice([-1, 1])]
        values = np.r_[1.0, small, np.zeros(rng.integers(3)), rng.uniform(0.1, 1, rng.integers(12, 60))]
        turn, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
        A = 2.0 ** (seed % 3 * 10 - 10) * (turn * values) @ turn.T
        b = turn @ (rng.standard_normal(len(values)) * (values != 0))
        endings += solved(torch.from_numpy(0.5 * (A + A.T)), torch.from_numpy(b), method="minres").endings
    assert "least_squares" not in endings


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 20), marks=pytest.mark.exhaustive)], ids=str)
def test_an_energy_that_falls_for_ever_along_the_null_space_keeps_no_long_solution(seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        A = with_eigenvalues(np.r_[np.zeros(4), rng.uniform(0.1, 10, 4)])
        b = torch.from_numpy(rng.standard_normal(8))
        for budget in range(3, 14):
            x = solved(A, b, method="cg", max_products=budget).solution
            assert float(0.5 * x @ A @ x - b @ x) <= 0
            assert float(x.norm()) <= 1e9


def test_a_run_without_the_preconditioner_knows_the_norm_of_a_singular_matrix():
    """What the preconditioned run leaves is all but null: products with it are subnormal numbers."""
    A = torch.diag(torch.tensor([0.0, 0.03882010653614998, 0.0001083828610717319]))
    B = torch.tensor([[-5.22275, -15.100224494934082, 2.4489370492424e-13], [0.0, -0.017965948, -0.000116075527]]).mT
    x0 = torch.tensor([[0.0, -388.9794616699219, 2.259524123360279e-09], [0.0, -0.4628000855, -1.07097685337]]).mT
    found = solved(A, B, method="minres", preconditioner=hesse.jacobi(A.diagonal()), x0=x0, tol=1e-10)
    residuals = (B.double() - A.double() @ found.solution.double()).norm(dim=0)
    least = torch.tensor([5.22275, 0.0], dtype=torch.float64)
    assert bool((residuals <= least + 1e-5 * B.double().norm(dim=0)).all())


def test_a_correction_beyond_the_range_of_the_precision_is_not_taken():
    A = torch.diag(torch.tensor([1.0, 2.0, 1e-3])) * 2.0**-100
    b = torch.tensor([1.0, 1.0, 2.0**40])
    for method in ("cg", "minres"):
        found = solved(A, b, method=method)
        assert not found.converged
        assert float((b - A @ found.solution).norm()) <= float(b.norm())
