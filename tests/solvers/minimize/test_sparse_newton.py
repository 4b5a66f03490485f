"""Minima by factors of sparse Hessians, against closed forms and dense derivatives of PyTorch's."""

from __future__ import annotations

import pytest
import scipy.sparse
import torch

import hesse

DOUBLE = torch.float64


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def control(x):
    """A pendulum that is steered from one angle to another, with its dynamics as a penalty."""
    angle, speed, torque = x["angle"], x["speed"], x["torque"]
    drift = angle[1:] - angle[:-1] - 0.1 * speed[:-1]
    kick = speed[1:] - speed[:-1] - 0.1 * (torque[:-1] - angle[:-1].sin())
    ends = (angle[-1] - 1) ** 2 + (angle[0] + 1) ** 2
    return 50 * ((drift**2).sum() + (kick**2).sum()) + 0.01 * (torque**2).sum() + ends


def phases(u):
    """A double well at each place of a grid, so that the Hessian near zero is indefinite."""
    return 0.5 * (u.diff(dim=0).square().sum() + u.diff(dim=1).square().sum()) + (u**2 - 1).square().sum()


def certify(func, x, slope):
    """A small gradient and no negative curvature."""
    assert float(torch.func.grad(func)(x).norm()) <= slope
    n = x.numel()
    assert float(torch.linalg.eigvalsh(torch.func.hessian(func)(x).reshape(n, n))[0]) > 0


@pytest.mark.parametrize("n", [20, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_a_chain_is_followed_to_its_end(n):
    found = hesse.minimize(rosenbrock, torch.zeros(n, dtype=DOUBLE), method="sparse-newton", tol=1e-10)
    assert found.converged
    torch.testing.assert_close(found.x, torch.ones(n, dtype=DOUBLE), rtol=0, atol=1e-7)


def test_a_trajectory_is_found():
    start = {name: torch.zeros(20, dtype=DOUBLE) for name in ("angle", "speed", "torque")}
    found = hesse.minimize(control, start, method="sparse-newton", tol=1e-10)
    assert found.converged
    assert found.nit < 30
    flat = torch.cat([found.x[name] for name in start])
    certify(lambda x: control(dict(zip(start, x.split(20), strict=True))), flat, 1e-8)


def test_a_minimum_is_found_from_where_the_matrix_is_indefinite():
    start = 0.01 * torch.randn(8, 9, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert float(torch.linalg.eigvalsh(torch.func.hessian(phases)(start).reshape(72, 72))[0]) < 0
    found = hesse.minimize(phases, start, method="sparse-newton", tol=1e-10)
    assert found.converged
    certify(phases, found.x, 1e-7)


def test_the_pattern_is_found_once_and_each_point_takes_a_product_for_each_color_and_two(monkeypatch):
    made = []
    find = hesse.Hessian._find_pattern
    monkeypatch.setattr(hesse.Hessian, "_find_pattern", lambda H: made.append(H) or find(H))
    x0 = torch.linspace(0.5, 1.5, 50, dtype=DOUBLE)
    found = hesse.minimize(rosenbrock, x0, method="sparse-newton")
    assert found.converged
    assert len(made) == 1
    assert found.num_products == found.nit * (3 + 2)
    stopped = hesse.minimize(rosenbrock, x0, method="sparse-newton", callback=lambda progress: True)
    assert (stopped.num_products, stopped.nit, stopped.converged) == (5, 0, False)
    with pytest.warns(hesse.ConvergenceWarning, match="products ran out"):
        assert hesse.minimize(rosenbrock, x0, method="sparse-newton", max_products=14).num_products == 10


def test_a_pattern_that_does_not_fit_is_refused_by_the_name_of_what_was_called():
    x0 = torch.linspace(0.5, 1.5, 50, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"^The pattern given to minimize\(\) lacks an entry in row"):
        hesse.minimize(rosenbrock, x0, method="sparse-newton", pattern=scipy.sparse.eye_array(50))
    with pytest.raises(ValueError, match=r"^The pattern given to minimize should have shape \(50, 50\)"):
        hesse.minimize(rosenbrock, x0, method="sparse-newton", pattern=scipy.sparse.eye_array(49))
    with pytest.raises(ValueError, match=r'^pattern given to minimize is for method="sparse-newton" but method is'):
        hesse.minimize(rosenbrock, x0, pattern=scipy.sparse.eye_array(50))


# A thousand steps, each twice as long.
@pytest.mark.exhaustive
def test_a_function_that_falls_for_ever_is_told():
    with pytest.warns(hesse.ConvergenceWarning, match="where its precision ends"):
        found = hesse.minimize(lambda x: x.sum(), torch.ones(4, dtype=DOUBLE), method="sparse-newton")
    assert not found.converged
    assert found.message.endswith("the function is unbounded below.")
