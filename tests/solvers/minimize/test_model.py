"""Minimizers of small models within a ball, by the conditions that make them global ones."""

from __future__ import annotations

import pytest
import torch

from hesse._solvers.minimize.model import minimize_model

DOUBLE = torch.float64


def value(T, gamma, h):
    return float(gamma * h[0] + 0.5 * h @ T @ h)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("radius", [1e-6, 0.3, 5.0, 1e6])
@pytest.mark.one_in(4)
def test_the_step_satisfies_the_conditions_of_more_and_sorensen(seed, radius):
    draw = torch.Generator().manual_seed(seed)
    k = 1 + seed % 7
    T = torch.randn(k, k, generator=draw, dtype=DOUBLE)
    T = T + T.mT + (seed % 3) * 3 * torch.eye(k, dtype=DOUBLE)
    gamma = 10.0 ** (seed % 5 - 2)
    step = minimize_model(T, gamma, radius)
    h = step.coordinates
    e = torch.zeros(k, dtype=DOUBLE)
    e[0] = gamma
    assert step.length == pytest.approx(float(h.norm()), rel=1e-10)
    assert step.length <= radius * (1 + 1e-10)
    assert step.decrease == pytest.approx(-value(T, gamma, h), rel=1e-7, abs=1e-14)
    # (T + λ)·h = −γ·e with λ ≥ 0 and T + λ positive semidefinite; λ is zero within the ball.
    multiplier = -float(h @ (T @ h + e)) / float(h @ h)
    lowest = float(torch.linalg.eigvalsh(T)[0])
    scale = float(torch.linalg.matrix_norm(T, 2)) + abs(multiplier)
    assert float((T @ h + multiplier * h + e).norm()) <= 1e-7 * (scale * float(h.norm()) + gamma)
    assert multiplier >= max(0.0, -lowest) - 1e-7 * scale
    if step.on_boundary:
        assert step.length == pytest.approx(radius, rel=1e-9)
    else:
        assert abs(multiplier) <= 1e-7 * scale


def test_in_the_hard_case_an_eigenvector_fills_up_the_length():
    # The gradient has no part along the only direction of negative curvature.
    T = torch.diag(torch.tensor([2.0, -1.0, 3.0], dtype=DOUBLE))
    step = minimize_model(T, 1.0, 5.0)
    # h₁ = −1/(2 + 1); the rest lies along the second direction, either way.
    assert float(step.coordinates[0]) == pytest.approx(-1 / 3)
    assert abs(float(step.coordinates[1])) == pytest.approx((25 - 1 / 9) ** 0.5)
    assert step.decrease == pytest.approx(1 / 3 - 1 / 9 + (25 - 1 / 9) / 2)


def test_a_model_without_curvature_is_followed_to_the_boundary():
    step = minimize_model(torch.zeros(1, 1, dtype=DOUBLE), 3.0, 2.0)
    assert step.on_boundary
    assert step.coordinates.tolist() == pytest.approx([-2.0])
    assert step.decrease == pytest.approx(6.0)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_models_of_any_scale_have_the_same_step(scale):
    T = torch.tensor([[2.0, 1.0], [1.0, -1.0]], dtype=DOUBLE)
    plain, scaled = minimize_model(T, 0.7, 0.4), minimize_model(scale * T, 0.7 * scale, 0.4)
    torch.testing.assert_close(scaled.coordinates, plain.coordinates)


def test_a_radius_far_from_the_gradient_in_size_is_reached():
    # γ/Δ is below the smallest number, and nothing bends.
    step = minimize_model(torch.zeros(2, 2, dtype=DOUBLE), 1e-250, 1e250)
    assert step.coordinates.tolist() == pytest.approx([-1e250, 0.0])
    assert step.decrease == pytest.approx(1.0)
