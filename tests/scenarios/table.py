"""The table: every scenario of every family, by name."""

from __future__ import annotations

from scenarios import (
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
from scenarios.scenario import Scenario

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

SCENARIOS: dict[str, Scenario] = {
    found.name: found for family in FAMILIES for found in vars(family).values() if isinstance(found, Scenario)
}
