"""Answers print as small tables, count as numbers where they are one, and unpack as other libraries' do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import hesse

from .known_matrices import with_eigenvalues

DOUBLE = torch.float64
MIXED = with_eigenvalues(np.concatenate([np.linspace(-1, 1, 60), [4.0, -5.0]]))
DEFINITE = with_eigenvalues(np.linspace(0.5, 10, 60))


def facts(text: str) -> dict[str, str]:
    """The labelled lines of a printed answer."""
    pairs = [line.split("  ", 1) for line in text.splitlines() if "  " in line.strip()]
    return {label: value.strip() for label, value in pairs if label}


def test_eigenpairs_are_a_table_with_a_row_each() -> None:
    found = hesse.eigsh(MIXED, 2, rng=0)
    text = str(found)
    assert text == repr(found)
    head, first, second, _, *rest = text.splitlines()
    assert head.split() == ["eigenvalue", "residual", "bound", "met", "none", "missing"]
    assert first.split()[:2] == ["1", "-5"]
    assert second.split()[:2] == ["2", "4"]
    assert first.split()[3:] == ["tol", "yes"]
    assert facts("\n".join(rest)) == {
        "vectors": "(62, 2), torch.float64 on cpu",
        "products": f"{found.num_products}, {found.num_looking} of them to look for missing eigenvalues",
        "converged": "yes",
    }


def test_a_long_table_is_cut() -> None:
    lines = str(hesse.eigsh(MIXED, 40, rng=0)).splitlines()
    assert lines[20].split()[0] == "20"
    assert lines[21] == "and 20 more"


def test_what_has_not_converged_says_so() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        found = hesse.eigsh(MIXED, 2, rng=0, max_products=4)
        trace = hesse.trace(MIXED, rng=0, method="hutchinson", max_products=31)
        solution = hesse.solve(MIXED, torch.ones(62, dtype=DOUBLE), method="cg")
    assert str(found).splitlines()[1].split()[3:] == ["none", "no"]
    assert facts(str(found))["converged"] == facts(str(trace))["converged"] == "no"
    low, high = trace.interval
    assert facts(str(trace))["trace"] == f"{trace.estimate:.6g} ± {(high - low) / 2:.2g} (95%)"
    assert facts(str(solution))["negative curvature"] == f"{solution.curvature:.3g}"
    assert str(solution).splitlines()[1].split()[3] == "negative_curvature"


def test_numbers_are_numbers() -> None:
    trace = hesse.trace(DEFINITE, method="exact")
    assert float(trace) == trace.estimate == pytest.approx(315.0)
    assert facts(str(trace)) == {"trace": "315 (exact)", "method": "exact", "products": "60", "converged": "yes"}
    norm = hesse.frobenius_norm(DEFINITE, rng=0)
    assert float(norm) == norm.estimate
    assert facts(str(norm))["norm"].startswith(f"{norm.estimate:.6g}")
    logdet = hesse.logdet(DEFINITE, rng=0)
    assert float(logdet) == logdet.estimate
    assert facts(str(logdet))["converged"] == "yes"
    assert "error estimate" in str(hesse.trace(DEFINITE, method="xtrace", rng=0))


def test_diagonals_and_densities_say_where_they_lie() -> None:
    entries = torch.linspace(-2, 3, 20, dtype=DOUBLE)
    assert facts(str(hesse.diagonal(torch.diag(entries), method="exact")))["diagonal"] == "20 entries, from -2 to 3"
    sampled = hesse.spectral_density(with_eigenvalues(np.linspace(-2, 3, 300)), num_probes=3, num_steps=25, rng=0)
    assert sampled.size == 300
    said = facts(str(sampled))
    assert said["eigenvalues"].startswith("300, from about -1.9")
    assert said["probes"] == "3, of 25 steps"
    assert said["products"] == str(sampled.num_products) == "75"


def test_solutions_have_a_row_for_each_right_hand_side_or_shift() -> None:
    B = torch.eye(60, 3, dtype=DOUBLE)
    solution = hesse.solve(DEFINITE, B, method="cg")
    rows = [line.split() for line in str(solution).splitlines()[1:4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[1] for row in rows] == [f"{norm:.2e}" for norm in solution.residual_norms.tolist()]
    assert [row[2] for row in rows] == [str(steps) for steps in solution.num_iterations.tolist()]
    shifted = hesse.solve_shifted(DEFINITE, B[:, 0], [1.0, 0.125])
    assert [line.split()[1] for line in str(shifted).splitlines()[1:3]] == ["1", "0.125"]
    assert facts(str(shifted))["products"] == str(shifted.num_products)
