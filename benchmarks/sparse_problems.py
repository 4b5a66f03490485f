"""Functions with sparse Hessians, written once for PyTorch and JAX: ``xp`` is ``torch`` or ``jax.numpy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.spatial

Array = np.ndarray[Any, Any]


class SparseProblem(NamedTuple):
    """A scalar function of one array, and where.

    Attributes:
        energy: of ``xp``, the input, and ``constants`` as arrays of the same library.
        start: the input.
        constants: indices and weights.
    """

    energy: Callable[..., Any]
    start: Array
    constants: tuple[Array, ...] = ()


def rosenbrock(n: int) -> SparseProblem:
    """A chain: 3 entries a row."""

    def energy(xp: Any, x: Any) -> Any:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return SparseProblem(energy, np.random.default_rng(0).normal(size=n))


def grid(n: int) -> SparseProblem:
    """A minimal surface with a potential, on a square: 5 entries a row."""
    side = round(n**0.5)

    def energy(xp: Any, u: Any) -> Any:
        right, down = u[:, 1:] - u[:, :-1], u[1:] - u[:-1]
        return xp.sqrt(1 + right**2).sum() + xp.sqrt(1 + down**2).sum() + (u**4).sum()

    return SparseProblem(energy, np.random.default_rng(0).normal(size=(side, side)))


def lennard_jones(atoms: int) -> SparseProblem:
    """Atoms with a cutoff of 2.5, about 180 entries a row."""
    generator = np.random.default_rng(0)
    side = int(np.ceil(atoms ** (1 / 3)))
    axis = 1.1 * np.arange(side)
    lattice = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)[:atoms]
    positions = lattice + 0.05 * generator.normal(size=lattice.shape)
    pairs = scipy.spatial.cKDTree(positions).query_pairs(2.5, output_type="ndarray")

    def energy(xp: Any, x: Any, i: Any, j: Any) -> Any:
        inverse = 1 / ((x[i] - x[j]) ** 2).sum(-1) ** 3
        return (4 * (inverse**2 - inverse)).sum()

    return SparseProblem(energy, positions, (pairs[:, 0], pairs[:, 1]))


def random_field(n: int) -> SparseProblem:
    """Counts with a log-rate that is a Gaussian Markov random field on a mesh of random points: 7 entries a row."""
    generator = np.random.default_rng(0)
    mesh = scipy.spatial.Delaunay(generator.random((n, 2))).simplices
    edges = np.sort(np.concatenate([mesh[:, [0, 1]], mesh[:, [1, 2]], mesh[:, [0, 2]]]), axis=1)
    edges = np.unique(edges, axis=0).astype(np.int64)
    counts = generator.poisson(2.0, size=n).astype(float)

    def energy(xp: Any, x: Any, i: Any, j: Any, y: Any) -> Any:
        return ((x[i] - x[j]) ** 2).sum() / 2 + (0.1 * x**2 / 2 + xp.exp(x) - y * x).sum()

    return SparseProblem(energy, generator.normal(size=n), (edges[:, 0], edges[:, 1], counts))


def optimal_control(n: int) -> SparseProblem:
    """A pendulum that is steered: angle, speed and torque of each step, with the dynamics as a penalty."""
    steps = n // 3

    def energy(xp: Any, x: Any) -> Any:
        angle, speed, torque = x[0], x[1], x[2]
        drift = angle[1:] - angle[:-1] - 0.1 * speed[:-1]
        kick = speed[1:] - speed[:-1] - 0.1 * (torque[:-1] - xp.sin(angle[:-1]))
        return 50 * ((drift**2).sum() + (kick**2).sum()) + (torque**2).sum() + (angle[-1] - 1) ** 2

    return SparseProblem(energy, np.random.default_rng(0).normal(size=(3, steps)))


PROBLEMS: dict[str, tuple[Callable[[int], SparseProblem], int, int]] = {
    "Rosenbrock": (rosenbrock, 1_000_000, 1000),
    "grid": (grid, 1_000_000, 900),
    "Lennard-Jones": (lennard_jones, 20_000, 125),
    "random field": (random_field, 1_000_000, 1000),
    "optimal control": (optimal_control, 999_999, 900),
}
"""Each problem's maker, its size, and a tiny size."""
