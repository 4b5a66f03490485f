"""The table: every scenario of every family, by name."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.capabilities import differentiates_grid_sample_twice

from . import (
    autograd_features,
    closed_forms,
    complex_numbers,
    indexing,
    layers,
    linear_algebra,
    networks,
    science,
    sequences,
    structures,
)
from .flat import leaves_of
from .scenario import Scenario

FAMILIES = (
    closed_forms,
    science,
    networks,
    layers,
    sequences,
    linear_algebra,
    indexing,
    complex_numbers,
    structures,
    autograd_features,
)

WITHOUT_SECOND_DERIVATIVE: dict[str, Scenario] = (
    {}
    if differentiates_grid_sample_twice()
    else {found.name: found for found in (layers.grid_sample_by_image_and_grid, layers.spatial_transformer)}
)
"""What the installed PyTorch cannot differentiate twice, and no rule does."""

SCENARIOS: dict[str, Scenario] = {
    found.name: found
    for family in FAMILIES
    for found in vars(family).values()
    if isinstance(found, Scenario) and found.name not in WITHOUT_SECOND_DERIVATIVE
}

EVERY_SCENARIO = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
"""Decorator of a test with an argument ``scenario``: run it on the whole table."""


def names(scenarios: Iterable[Scenario]) -> list[str]:
    """What the tests on a part of the table are called."""
    return [scenario.name for scenario in scenarios]


def has_complex_inputs(scenario: Scenario) -> bool:
    """Whether some leaf is complex: its Hessian is then a matrix of real and imaginary parts."""
    return any(leaf.is_complex() for leaf in leaves_of(scenario.build().inputs))
