"""``eigsh`` on symmetric matrices with known trouble, against the eigenvalues that were put in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hesse

from ..linear.systems import GRADED, SYSTEMS

TROUBLE = {**SYSTEMS, "graded from 1e-12 to 1e12": GRADED}
ORDERS = {"LA": lambda values: -values, "SA": lambda values: values, "LM": lambda values: -abs(values)}


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("which", ORDERS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.exhaustive] if name == "two thousand" else []) for name in TROUBLE],
)
@pytest.mark.one_in(7)
def test_each_end_of_each_matrix(name, which, block_size):
    system = TROUBLE[name]
    values = system.eigenvalues
    k = min(4, len(values))
    found = hesse.eigsh(system.matrix(), k, which=which, rng=0, max_products=3000, block_size=block_size, certify=True)
    assert found.converged
    expected = values[np.argsort(ORDERS[which](values), kind="stable")][:k]
    if which == "LM":
        # Two that are as large in magnitude come in either order.
        found_values, expected = (np.sort(abs(each))[::-1] for each in (found.values.numpy(), expected))
    else:
        found_values = found.values.numpy()
    norm = abs(values).max()
    bound = np.maximum(1e-6 * abs(expected), 32 * np.finfo(float).eps * norm)
    # What is better by no more than sixteen times the bound may be missed.
    assert (abs(found_values - expected) <= 17 * bound).all()
    A = system.matrix()
    truth = (A @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert torch.allclose(found.residuals, truth, atol=1e-14 * norm, rtol=1e-6)
