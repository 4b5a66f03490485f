"""Energies, likelihoods and simulations, as people in the sciences differentiate them."""

from __future__ import annotations

import torch
from torch import Tensor

from .scenario import Case, draw, positive, scenario


def _cluster() -> Tensor:
    """Five atoms near a stretched grid, none close enough for the repulsion to swamp everything."""
    grid = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.float64)
    return 1.2 * grid + 0.05 * draw(5, 3)


def _lennard_jones(squared: Tensor) -> Tensor:
    inverse = squared**-3
    return 4 * (inverse**2 - inverse).sum()


@scenario
def lennard_jones_all_pairs() -> Case:
    def energy(positions: Tensor) -> Tensor:
        squared = ((positions[:, None] - positions[None, :]) ** 2).sum(-1)
        i, j = torch.triu_indices(5, 5, offset=1)
        return _lennard_jones(squared[i, j])

    return Case(energy, _cluster())


@scenario
def lennard_jones_masked_all_pairs() -> Case:
    upper = torch.ones(5, 5, dtype=torch.bool).triu(1)

    def energy(positions: Tensor) -> Tensor:
        squared = ((positions[:, None] - positions[None, :]) ** 2).sum(-1)
        return _lennard_jones(torch.where(upper, squared, torch.inf))

    return Case(energy, _cluster())


@scenario
def lennard_jones_gathered_pairs() -> Case:
    i, j = torch.triu_indices(5, 5, offset=1)

    def energy(positions: Tensor) -> Tensor:
        return _lennard_jones(((positions[i] - positions[j]) ** 2).sum(-1))

    return Case(energy, _cluster())


@scenario
def pendulum_rolled_out_by_runge_kutta() -> Case:
    def slope(state: Tensor, length: Tensor) -> Tensor:
        return torch.stack([state[1], -torch.sin(state[0]) / length])

    def func(state: Tensor, length: Tensor) -> Tensor:
        h = 0.1
        for _ in range(6):
            k1 = slope(state, length)
            k2 = slope(state + h / 2 * k1, length)
            k3 = slope(state + h / 2 * k2, length)
            k4 = slope(state + h * k3, length)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return (state**2).sum()

    return Case(func, (draw(2), positive()))


@scenario
def gaussian_process_marginal_likelihood() -> Case:
    points, targets = draw(6), draw(6)
    squared = (points[:, None] - points[None, :]) ** 2

    def func(log_scales: Tensor) -> Tensor:
        length, amplitude, noise = log_scales.exp()
        kernel = amplitude * torch.exp(-squared / (2 * length)) + noise * torch.eye(6, dtype=torch.float64)
        factor = torch.linalg.cholesky(kernel)
        weights = torch.cholesky_solve(targets[:, None], factor)[:, 0]
        return targets @ weights / 2 + factor.diagonal().log().sum()

    return Case(func, 0.3 * draw(3))


@scenario
def gaussian_mixture_likelihood() -> Case:
    samples = draw(10, 2)

    def func(means: Tensor, log_scales: Tensor, logits: Tensor) -> Tensor:
        squared = ((samples[:, None] - means) ** 2).sum(-1)
        log_density = -squared / (2 * log_scales.exp() ** 2) - 2 * log_scales + torch.log_softmax(logits, 0)
        return -torch.logsumexp(log_density, 1).mean()

    return Case(func, (draw(3, 2), 0.2 * draw(3), draw(3)))


@scenario
def beta_log_density() -> Case:
    samples = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)

    def func(a: Tensor, b: Tensor) -> Tensor:
        # digamma and trigamma are the first two derivatives of the normalizer.
        return torch.distributions.Beta(a, b, validate_args=False).log_prob(samples).sum()

    return Case(func, (positive(), 1 + positive()))


@scenario
def newton_iteration_for_a_square_root() -> Case:
    def func(x: Tensor) -> Tensor:
        root = x
        for _ in range(5):
            root = (root + x / root) / 2
        return (root**3).sum()

    return Case(func, 1 + positive(3))


@scenario
def number_of_steps_depends_on_the_data() -> Case:
    def func(x: Tensor) -> Tensor:
        while float(x.detach().abs().sum()) < 20:
            x = 1.2 * x + 0.3 * torch.sin(x) ** 2
        return (x**2).sum()

    return Case(func, 1 + positive(4))
