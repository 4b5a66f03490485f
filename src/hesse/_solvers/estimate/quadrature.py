"""Gauss quadrature of zᵀ·f(A)·z by Lanczos from z, with an estimate of what the quadrature leaves out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.estimate.recurrence import Recurrence
from hesse._solvers.run import Products

Quadrature = tuple[Tensor, Tensor]
"""Nodes and weights, float64 on the CPU."""

# Fewer steps say nothing about how a quadrature converges.
LEAST_STEPS = 4
# Vectors of a probe beside its basis; and of a probe that keeps none.
PASSING, LEAST = 4, 4
# Columns of the matrix that are made between two looks at the callback.
WIDTH = 64
# The size up to which all eigenvalues take seconds, beside their products.
LARGEST_MATRIX = 2000


@dataclasses.dataclass(frozen=True)
class Room:
    """What memory allows.

    Attributes:
        probes: how many go side by side.
        bases: whether each of them keeps its basis, and reorthogonalizes.
        whole: whether a basis of the whole space, or the matrix, fits.
    """

    probes: int
    bases: bool
    whole: bool


class Probe:
    """Lanczos from one vector, with full reorthogonalization where its basis is kept.

    Attributes:
        values: what the quadrature gave after each step, as its user notes it.
        error: how far the last of them may be off, as its user notes it.
    """

    def __init__(self, products: Products, start: Tensor | None, steps: int, *, bases: bool = True) -> None:
        self.basis: Basis | Recurrence = (
            Basis(products, steps, keep_products=False) if bases else Recurrence(products, steps)
        )
        self._bases = bases
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
        """How far the nodes may be off by rounding: eps·‖A‖, for each step where vectors are not reorthogonalized."""
        return self._eps * self.basis.norm * (1 if self._bases else self.basis.size)

    def quadrature(self) -> Quadrature:
        """Nodes and weights: Ritz values, and squares of the Ritz vectors' parts along the start."""
        values, coordinates = torch.linalg.eigh(self.basis.matrix)
        return values, coordinates[0] ** 2


def room(products: Products, steps: int, most: int, whole: bool) -> Room:
    """What memory allows, for up to ``most`` probes of so many steps.

    Args:
        products: the question's products.
        steps: of each probe.
        most: how many probes have a use.
        whole: whether the whole space may be of use.
    """
    # Of a probe its basis, the start, the vector that is multiplied, its product and what is left of that; and what
    # comes and goes while one of them is orthogonalized.
    each, all_of_it = steps + PASSING, 2 * products.size + PASSING * WIDTH
    planned = products.plan(LEAST, max(most * each + PASSING, all_of_it if whole else 0))
    probes = min(most, (planned - PASSING) // each)
    return Room(max(1, probes), probes > 0, whole and planned >= all_of_it)


def advance(products: Products, probes: Sequence[Probe]) -> None:
    """One step of each of the probes, by products with all at once."""
    vectors = [probe.basis.next() for probe in probes]
    images = products.multiply(torch.cat(vectors, dim=1) if len(vectors) > 1 else vectors[0])
    for probe, image in zip(probes, blocks.pieces(images), strict=True):
        probe.basis.take(image)


def state(probes: Sequence[Probe]) -> State:
    """What a checkpoint keeps of probes."""
    kept: State = {"probes": [[probe.values, probe.error] for probe in probes]}
    for place, probe in enumerate(probes):
        kept |= probe.basis.state(f"probe.{place}")
    return kept


def kept(products: Products, saved: State, steps: int, *, bases: bool = True) -> list[Probe]:
    """The probes that ``state`` was given, of so many steps."""
    probes = []
    for place, (values, error) in enumerate(saved["probes"]):
        probe = Probe(products, None, steps, bases=bases)
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
