"""Vibration frequencies of a molecule and of a cluster, from their energies alone.

python examples/molecule.py
hesse spectrum examples/molecule.py --top 33 --bottom 0 --dtype float64 --probes 0

Frequencies are square roots of the eigenvalues of the mass-weighted Hessian, M^(−1/2)·H·M^(−1/2). Moving and turning
the whole molecule costs no energy, so those directions are left out: coordinates are y, in x = x₀ + M^(−1/2)·B·y,
where the columns of B are orthonormal, and orthogonal to translations and rotations. (Wilson, Decius and Cross,
Molecular Vibrations, McGraw-Hill 1955, chapter 2.)
"""

import math

import numpy as np
import torch
from scipy import constants, optimize

import hesse

# From √(eV / (Å²·u)), the unit of frequency here, to wave numbers in 1/cm.
WAVE_NUMBER = math.sqrt(constants.e / (constants.angstrom**2 * constants.atomic_mass)) / (200 * math.pi * constants.c)

# A Morse potential for hydrogen chloride: depth in eV, steepness in 1/Å, length in Å; masses in u.
DEPTH, STEEPNESS, LENGTH = 4.618, 1.869, 1.2746
HYDROGEN, CHLORINE = 1.00783, 34.96885

# Lennard-Jones argon: well in eV, diameter in Å, mass in u.
WELL, DIAMETER, ARGON = 0.0104, 3.40, 39.948


def morse(x):
    """D·(1 − exp(−a·(r − r₀)))² of two atoms at the rows of x."""
    return DEPTH * (1 - torch.exp(-STEEPNESS * (torch.linalg.vector_norm(x[0] - x[1]) - LENGTH))) ** 2


def lennard_jones(x):
    """Σ 4ε·((σ/r)¹² − (σ/r)⁶) over all pairs of atoms at the rows of x."""
    i, j = torch.triu_indices(len(x), len(x), offset=1)
    attraction = (DIAMETER**2 / ((x[i] - x[j]) ** 2).sum(-1)) ** 3
    return (4 * WELL * (attraction**2 - attraction)).sum()


def hydrogen_chloride():
    """The molecule at rest: positions and masses."""
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, LENGTH]], dtype=torch.float64)
    return positions, torch.tensor([HYDROGEN, CHLORINE], dtype=torch.float64)


def argon_cluster():
    """Thirteen atoms at rest: an icosahedron around an atom, its lowest minimum."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = [corner[turn:] + corner[:turn] for corner in corners for turn in range(3)]
    start = torch.tensor([(0, 0, 0), *corners], dtype=torch.float64) * 2.0
    return minimize(lennard_jones, start), torch.full((13,), ARGON, dtype=torch.float64)


def minimize(energy, start):
    """The nearest minimum: SciPy's trust region method, with values, gradients and Hessians of hesse."""

    def at(flat):
        return hesse.Hessian(energy, torch.from_numpy(flat).reshape(start.shape))

    def value_and_gradient(flat):
        H = at(flat)
        return H.value.item(), H.flatten(H.gradient).numpy()

    found = optimize.minimize(
        value_and_gradient,
        start.numpy().ravel(),
        jac=True,
        hess=lambda flat: at(flat).to_dense().numpy(),
        method="trust-exact",
        options={"gtol": 1e-12},
    )
    return torch.from_numpy(found.x).reshape(start.shape)


def internal_basis(positions, masses):
    """B: mass-weighted displacements that neither move nor turn the molecule, as orthonormal columns."""
    root = masses.sqrt().repeat_interleave(3)
    centered = positions - (masses[:, None] * positions).sum(0) / masses.sum()
    axes = torch.eye(3, dtype=positions.dtype)
    translations = [axis.repeat(len(masses)) for axis in axes]
    rotations = [torch.linalg.cross(axis.expand_as(centered), centered).ravel() for axis in axes]
    rigid = torch.stack([root * motion for motion in translations + rotations], dim=1)
    # A linear molecule cannot turn around itself: then there are five rigid motions, not six.
    left, sizes, _ = torch.linalg.svd(rigid, full_matrices=True)
    return left[:, int((sizes > 1e-8 * sizes[0]).sum()) :]


def vibrations(energy, positions, masses):
    """The energy as a function of internal coordinates, at rest."""
    turn = internal_basis(positions, masses) / masses.sqrt().repeat_interleave(3)[:, None]

    def of_internal(y):
        kind = turn.to(y.dtype)
        return energy(positions.to(y.dtype) + (kind @ y).reshape(positions.shape))

    return hesse.Problem(func=of_internal, inputs=torch.zeros(turn.shape[1], dtype=positions.dtype))


def wave_numbers(molecule):
    """All frequencies in 1/cm, the highest first."""
    H = hesse.Hessian(molecule.func, molecule.inputs)
    squares = hesse.eigsh(H, k=H.shape[0], which="LA", rng=0).values
    return WAVE_NUMBER * squares.clamp(min=0).sqrt()


def problem():
    """The cluster: its eigenvalues are squares of frequencies."""
    return vibrations(lennard_jones, *argon_cluster())


if __name__ == "__main__":
    (found,) = wave_numbers(vibrations(morse, *hydrogen_chloride())).tolist()
    reduced = HYDROGEN * CHLORINE / (HYDROGEN + CHLORINE)
    print(f"hydrogen chloride: {found:.4f} 1/cm; in closed form, a·√(2D/μ): ", end="")
    print(f"{WAVE_NUMBER * STEEPNESS * math.sqrt(2 * DEPTH / reduced):.4f} 1/cm")
    print("thirteen argon atoms, 1/cm and how many vibrate so:")
    values, counts = np.unique(wave_numbers(problem()).numpy().round(3), return_counts=True)
    for value, count in zip(values, counts, strict=True):
        print(f"  {value:8.3f}  {count}")
