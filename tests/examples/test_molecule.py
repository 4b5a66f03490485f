"""Vibrations against closed forms: a diatomic, a triangle of equal springs, and the rigid motions left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .load import example


@pytest.fixture(scope="module")
def molecule():
    return example("molecule")


def test_a_diatomic_vibrates_as_its_closed_form_says(molecule):
    (found,) = molecule.wave_numbers(molecule.vibrations(molecule.morse, *molecule.hydrogen_chloride())).tolist()
    reduced = molecule.HYDROGEN * molecule.CHLORINE / (molecule.HYDROGEN + molecule.CHLORINE)
    # ν = a/(2πc)·√(2D/μ), in SI units.
    angular = (
        molecule.STEEPNESS * 1e10 * math.sqrt(2 * molecule.DEPTH * 1.602176634e-19 / (reduced * 1.66053906892e-27))
    )
    assert found == pytest.approx(angular / (2 * math.pi * 299792458) / 100, rel=1e-8)
    # Hydrogen chloride's harmonic wave number is 2991 in the tables.
    assert found == pytest.approx(2991, rel=0.005)


def test_where_and_how_the_molecule_lies_does_not_matter(molecule):
    positions, masses = molecule.hydrogen_chloride()
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    moved = positions @ torch.from_numpy(turn) + torch.tensor([5.0, -2.0, 1.0])
    expected = molecule.wave_numbers(molecule.vibrations(molecule.morse, positions, masses))
    assert torch.allclose(molecule.wave_numbers(molecule.vibrations(molecule.morse, moved, masses)), expected)


def test_a_triangle_of_equal_springs_has_one_breathing_mode_and_a_pair(molecule):
    # Three equal masses m, springs k: ω² = 3k/m once, 3k/(2m) twice (Wilson, Decius and Cross, chapter 8).
    def springs(x):
        i, j = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
        return 0.5 * 2.0 * ((torch.linalg.vector_norm(x[i] - x[j], dim=1) - 1) ** 2).sum()

    positions = torch.tensor([[0, 0, 0], [1, 0, 0], [0.5, math.sqrt(3) / 2, 0]], dtype=torch.float64)
    triangle = molecule.vibrations(springs, positions, torch.full((3,), 4.0, dtype=torch.float64))
    assert triangle.inputs.shape == (3,)
    found = (molecule.wave_numbers(triangle) / molecule.WAVE_NUMBER) ** 2
    assert found.tolist() == pytest.approx([1.5, 0.75, 0.75])


def test_the_cluster_has_the_degeneracies_of_an_icosahedron(molecule):
    values = molecule.wave_numbers(molecule.problem()).numpy()
    assert len(values) == 33
    assert values.min() > 1
    counts = np.unique(values.round(4), return_counts=True)[1]
    # The vibrations of an icosahedron with an atom in its middle: A + G×2 + H×3 + T×3, by group theory.
    assert sorted(counts.tolist()) == [1, 3, 3, 3, 4, 4, 5, 5, 5]
