"""Solves, traces, diagonals, norms and log-determinants of every scenario's Hessian, against the dense reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesse

from .comparison import assert_close, random_vectors
from .scenario import Scenario
from .table import EVERY_SCENARIO


@EVERY_SCENARIO
@pytest.mark.one_in(17)
def test_a_damped_system_is_solved(scenario: Scenario) -> None:
    case, reference = scenario.build(), scenario.reference
    H = hesse.Hessian(case.func, case.inputs)
    # Twice the norm: a condition number of three, so that errors stay what those of products are.
    damping = 2 * float(torch.linalg.matrix_norm(reference.hessian, 2)) + 1e-3
    dense = reference.hessian + damping * torch.eye(reference.n, dtype=torch.float64)
    B = random_vectors(reference.n, 3).T
    found = hesse.solve(H.shift(damping), B.to(H.dtype), tol=max(reference.tolerance, 1e-9))
    assert found.converged
    assert found.negative_curvature is None
    wanted = torch.linalg.solve(dense, B)
    assert_close(found.solution.double(), wanted, 10 * max(reference.tolerance, 1e-9))
    path = hesse.solve_shifted(H, B[:, 0].to(H.dtype), [damping, 2 * damping], tol=max(reference.tolerance, 1e-9))
    assert path.converged
    assert_close(path.solutions[0].double(), wanted[:, 0], 10 * max(reference.tolerance, 1e-9))


@EVERY_SCENARIO
@pytest.mark.one_in(17)
def test_negative_curvature_is_found_only_where_there_is_some(scenario: Scenario) -> None:
    case, reference = scenario.build(), scenario.reference
    H = hesse.Hessian(case.func, case.inputs)
    eigenvalues = torch.linalg.eigvalsh(0.5 * (reference.hessian + reference.hessian.mT))
    b = (reference.hessian @ random_vectors(reference.n, 1)[0]).to(H.dtype)
    found = hesse.solve(H, b, tol=1e-3, callback=lambda p: p.num_products >= 4 * reference.n + 50)
    residual = b.double() - reference.hessian @ found.solution.double()
    slack = 20 * reference.tolerance * float(eigenvalues.abs().max()) * (1 + float(found.solution.double().norm()))
    assert abs(float(found.residual_norms[0]) - float(residual.norm())) <= slack
    if found.negative_curvature is not None:
        assert float(eigenvalues.min()) < slack


@EVERY_SCENARIO
@pytest.mark.one_in(17)
def test_sums_over_the_spectrum(scenario: Scenario) -> None:
    case, reference = scenario.build(), scenario.reference
    H = hesse.Hessian(case.func, case.inputs)
    n, hessian = reference.n, reference.hessian
    tolerance = 10 * reference.tolerance * n * max(1e-300, float(hessian.abs().max()))
    assert abs(hesse.trace(H, method="exact", max_products=n + 2).estimate - float(hessian.trace())) <= tolerance
    assert_close(
        hesse.diagonal(H, method="exact", max_products=n + 2).estimate.double(),
        hessian.diagonal(),
        10 * reference.tolerance,
    )
    norm = hesse.frobenius_norm(H, tol=0.5, rng=0)
    assert norm.interval[0] - tolerance <= float(hessian.norm()) <= norm.interval[1] + tolerance
    damping = 2 * float(torch.linalg.matrix_norm(hessian, 2)) + 1e-3
    sign, logarithm = np.linalg.slogdet((hessian + damping * torch.eye(n, dtype=torch.float64)).numpy())
    found = hesse.logdet(H.shift(damping), atol=1.0, rng=0)
    assert sign == 1
    assert (
        found.interval[0] - 10 * reference.tolerance * n
        <= logarithm
        <= found.interval[1] + 10 * reference.tolerance * n
    )
