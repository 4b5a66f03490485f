"""Gauss quadrature of zᵀ·f(A)·z by Lanczos from z, with an estimate of what the quadrature leaves out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.run import Products

Quadrature = tuple[Tensor, Tensor]
"""Nodes and weights, float64 on the CPU."""

# Fewer steps say nothing about how a quadrature converges.
LEAST_STEPS = 4
# Krylov bases of probes that go side by side take up to that much memory.
BASIS_BYTES = 2**30
# The size up to which all eigenvalues take seconds, beside their products.
LARGEST_MATRIX = 2000


class Probe:
    """Lanczos from one vector, with full reorthogonalization.

    Attributes:
        values: what the quadrature gave after each step, as its user notes it.
        error: how far the last of them may be off, as its user notes it.
    """

    def __init__(self, products: Products, start: Tensor | None, steps: int) -> None:
        self.basis = Basis(products, steps, keep_products=False)
        if start is not None:
            self.basis.push(start)
        self.values: list[float] = []
        self.error = math.inf
        self._eps = torch.finfo(products.operator.dtype).eps

    @property
    def ended(self) -> bool:
        """Whether it has made its steps, or come to the end of its Krylov space; there the quadrature is exact."""
        return self.basis.size == self.basis.capacity or self.basis.exhausted

    @property
    def rounding(self) -> float:
        """How far the nodes may be off by rounding, eps·‖A‖."""
        return self._eps * self.basis.norm

    def quadrature(self) -> Quadrature:
        """Nodes and weights: Ritz values, and squares of the Ritz vectors' parts along the start."""
        values, coordinates = torch.linalg.eigh(self.basis.matrix)
        return values, coordinates[0] ** 2


def at_once(products: Products, steps: int) -> int:
    """How many probes may go side by side."""
    return max(1, BASIS_BYTES // max(1, steps * products.size * products.operator.dtype.itemsize))


def advance(products: Products, probes: Sequence[Probe]) -> None:
    """One step of each of the probes, by products with all at once."""
    images = products.multiply(torch.cat([probe.basis.next() for probe in probes], dim=1))
    for probe, image in zip(probes, blocks.pieces(images), strict=True):
        probe.basis.take(image)


def state(probes: Sequence[Probe]) -> State:
    """What a checkpoint keeps of probes."""
    kept: State = {"probes": [[probe.values, probe.error] for probe in probes]}
    for place, probe in enumerate(probes):
        kept |= probe.basis.state(f"probe.{place}")
    return kept


def kept(products: Products, saved: State, steps: int) -> list[Probe]:
    """The probes that ``state`` was given, of so many steps."""
    probes = []
    for place, (values, error) in enumerate(saved["probes"]):
        probe = Probe(products, None, steps)
        probe.values, probe.error = values, error
        probe.basis.go_on_from(saved, f"probe.{place}")
        probes.append(probe)
    return probes


def error(values: list[float], most: int) -> float:
    """How far the last of a quadrature's values, one for each step, may be off, where ``most`` steps make it exact.

    The steps of the last quarter changed it by so much in all; and what each doubling of the steps changed goes on as a
    geometric series, which matters where that falls slowly.
    """
    size = len(values)
    if size < LEAST_STEPS:
        return math.inf
    quarter, half, last = (values[max(1, size * part // 4) - 1] for part in (1, 2, 4))
    changes = sum(abs(after - before) for before, after in itertools.pairwise(values[max(1, size * 3 // 4) - 1 :]))
    doubled, before = abs(last - half), abs(half - quarter)
    ratio = doubled / before if before else 0.0
    to_come, term = 0.0, doubled
    for _ in range(math.ceil(math.log2(most / size))):
        # A product overflows to infinity, where a power would raise.
        term *= ratio
        to_come += term
    return max(changes, to_come)
