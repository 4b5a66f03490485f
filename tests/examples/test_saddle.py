"""The saddle search on seven atoms: a stationary point of one negative curvature, and published energies of minima."""

from __future__ import annotations

import itertools

import pytest
import torch

from .load import example

# Of the four minima of seven Lennard-Jones atoms (Tsai and Jordan, J. Phys. Chem. 97 (1993) 11227).
MINIMA = (-16.505384, -15.935043, -15.593211, -15.533060)


@pytest.fixture(scope="module")
def saddle():
    return example("saddle")


def dense(saddle, x):
    flat = x.flatten()
    return torch.autograd.functional.hessian(lambda y: saddle.energy(y.reshape(x.shape)), flat)


def test_the_lowest_mode_leads_to_a_saddle_between_two_minima(saddle):
    start = saddle.bipyramid()
    assert float(saddle.energy(start)) == pytest.approx(MINIMA[0], abs=1e-6)
    x, mode, path = saddle.saddle_near(start)
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(saddle.energy(y), y)
    assert float(slope.norm()) < 1e-7
    values, vectors = torch.linalg.eigh(dense(saddle, x))
    # One direction leads down; moving and turning the cluster costs nothing.
    assert float(values[0]) < -1
    assert float(values[1:7].abs().max()) < 1e-5
    assert float(values[7]) > 1
    assert abs(float(vectors[:, 0] @ mode)) == pytest.approx(1, abs=1e-6)
    assert len(path) < 50
    beside = sorted(float(saddle.energy(each)) for each in saddle.minima_beside(x, mode))
    assert beside == pytest.approx([MINIMA[0], MINIMA[1]], abs=1e-6)
    assert float(saddle.energy(x)) > beside[1]


@pytest.mark.exhaustive
def test_no_step_is_longer_than_it_may_be(saddle):
    _, _, path = saddle.saddle_near(saddle.bipyramid())
    lengths = [float((after - before).norm()) for before, after in itertools.pairwise(path)]
    assert max(lengths) <= saddle.LONGEST * (1 + 1e-9)
    with pytest.raises(RuntimeError, match="No saddle point within 2 steps"):
        saddle.saddle_near(path[0], steps=2)
