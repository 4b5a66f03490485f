"""Rosenbrock's function: products and largest curvatures against the entries worked out by hand, as a dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesse

from .load import example


@pytest.fixture(scope="module")
def rosenbrock():
    return example("rosenbrock")


def test_the_entries_worked_out_by_hand_are_those_of_pytorch(rosenbrock):
    x = torch.randn(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.autograd.functional.hessian(rosenbrock.rosenbrock, x)
    found = torch.stack([rosenbrock.tridiagonal(x, unit) for unit in torch.eye(40, dtype=torch.float64)])
    assert torch.allclose(found, expected)


def test_its_largest_curvatures_are_those_of_the_tridiagonal_matrix(rosenbrock):
    at = rosenbrock.problem(2000)
    x = at.inputs.double()
    entries = torch.stack([rosenbrock.tridiagonal(x, unit) for unit in torch.eye(2000, dtype=torch.float64)])
    found = hesse.eigsh(hesse.Hessian(at.func, at.inputs), k=3, which="LA", rng=0)
    assert found.converged
    assert np.allclose(found.values, np.linalg.eigvalsh(entries)[::-1][:3], rtol=1e-5)


def test_a_product_in_a_million_variables_is_right(rosenbrock):
    at = rosenbrock.problem()
    H = hesse.Hessian(at.func, at.inputs)
    v = torch.randn(H.shape[1], generator=torch.Generator().manual_seed(1))
    expected = rosenbrock.tridiagonal(at.inputs.double(), v.double())
    assert (H @ v - expected).norm() <= 1e-6 * expected.norm()
