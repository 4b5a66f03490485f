"""Sampling a trace by Hutchinson's estimator, deflated once that is cheaper: adaptive Hutch++."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.estimate import student
from hesse._solvers.estimate.quantity import Quantity
from hesse._solvers.estimate.range_finder import RangeFinder
from hesse._solvers.run import Products

# The t interval is that of normal samples, and stopping early favors intervals that are too short: by then there are
# enough samples for both to matter little.
LEAST_SAMPLES = 30
BLOCK = 16
# How exact a form is, in units of eps times its value: all there is to tell where nothing is sampled.
ROUNDING = 8

Strategy = Literal["auto", "hutchinson", "hutch++", "exact"]
Way = Literal["plain", "basis", "remainder", "exact"]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A trace: ``estimate`` ± ``half`` with the confidence asked for, and the size of its error."""

    estimate: float
    standard_error: float
    error_estimate: float
    half: float
    converged: bool
    method: str


KEPT = ("_way", "_samples", "_remainders", "_head", "_rounding", "_done", "_last")
UNKNOWN = Sampled(math.nan, math.nan, math.nan, math.inf, False, "exact")


class Sampler:
    r"""The trace of a quadratic form F, by samples :math:`F(\omega)` for random signs ω, until the interval is short.

    The images Aω of the samples span a basis Q whose quality leave-one-out foretells at no cost. Then
    :math:`\mathrm{tr} F = \sum_j F(q_j) + \mathrm{E}\, F((I - QQ^\top)\omega)`, where the first sum takes one product
    for each vector of Q and the second is sampled by new signs. Three ways are open after every block: go on with plain
    samples, deflate, or read the diagonal off by n products. ``"auto"`` takes the one that is foretold to need the
    fewest products, but grows Q for as long as each further sample saves more products later than it costs.

    Source: Meyer, Musco, Musco and Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021, for the
    deflation; Persson, Cortinovis and Kressner, "Improved variants of the Hutch++ algorithm for trace estimation", SIAM
    J. Matrix Anal. Appl. 43 (2022) 1162–1185, for the size of the basis by its marginal gain. That the gain is read off
    the samples themselves, by leave-one-out, before any product is spent on the basis, is ours.
    """

    def __init__(
        self, products: Products, quantity: Quantity, strategy: Strategy, confidence: float, rng: np.random.Generator
    ) -> None:
        self._products = products
        self._operator = products.operator
        self._quantity = quantity
        self._strategy = strategy
        self._confidence = confidence
        self._rng = rng
        self._range = RangeFinder(products.operator)
        self._way: Way = "exact" if strategy == "exact" else "plain"
        # Samples of F(ω), and of what a basis leaves of it.
        self._samples: list[float] = []
        self._remainders: list[float] = []
        # The sum over vectors of the basis, or unit vectors, and how many of them are done.
        self._head = self._rounding = 0.0
        self._done = 0
        self._found = UNKNOWN
        self._last: tuple[int, float] | None = None
        # A third of the products for the basis is the split of Hutch++.
        largest = min(products.max_products // 3, products.size)
        # The basis is copied when it grows, beside signs, images and what is orthogonalized. For images of a scale far
        # from one there are two for each vector.
        least = 8 if strategy == "hutch++" else 4
        room = products.plan(least, max(8 * BLOCK, 3 * LEAST_SAMPLES, 2 * largest + 3 * BLOCK + 3))
        self._width, self._units = max(1, min(BLOCK, room // 8)), min(LEAST_SAMPLES, room // 3)
        self._largest_basis = max(0, min((room - 3 * self._width - 3) // 2, largest))

    def run(self, saved: State | None = None) -> Sampled:
        """Sample until the interval is short enough or no products are left; go on from ``saved``, if any."""
        if saved is not None:
            self._load(saved)
        steps = {"plain": self._plain, "basis": self._basis, "remainder": self._remainder, "exact": self._exact}
        while self._products.left and not self._found.converged:
            steps[self._way]()
            self._products.keep(self._state, decided=True)
        return self._found

    def _state(self) -> State:
        kept = {name: getattr(self, name) for name in KEPT}
        return {**kept, **self._range.state(), "found": dataclasses.asdict(self._found)}

    def _load(self, saved: State) -> None:
        for name in KEPT:
            setattr(self, name, saved[name])
        self._range.load(saved)
        self._found = Sampled(**saved["found"])

    def _plain(self) -> None:
        """A block of samples, and the choice how to go on."""
        signs = self._signs(len(self._samples))
        images = self._products.multiply(signs)
        self._samples += self._quantity.form(self._operator, signs, images).tolist()
        self._found = self._summary(self._samples, "hutchinson")
        if self._strategy == "hutch++":
            self._found = dataclasses.replace(self._found, converged=False)
        if self._found.converged or self._strategy == "hutchinson":
            return
        if self._range.size < self._largest_basis and not self._range.exhausted:
            self._range.append(images[:, : self._largest_basis - self._range.size])
        self._way = self._choose()

    def _basis(self) -> None:
        """A block of vectors of the basis."""
        block = self._range.basis[:, self._done : self._done + self._width]
        self._add_up(block, self._products.multiply(block))
        self._products.report(f"deflated {self._done} of {self._range.size} directions")
        if self._done == self._range.size:
            self._way = "remainder"

    def _add_up(self, block: Tensor, images: Tensor) -> None:
        """Forms of given vectors, as a part of the trace that is no sample."""
        parts = self._quantity.form(self._operator, block, images)
        self._head += float(parts.sum())
        self._rounding += ROUNDING * torch.finfo(self._operator.dtype).eps * float(parts.abs().sum())
        self._done += block.shape[1]

    def _remainder(self) -> None:
        """A block of samples of what the basis leaves."""
        signs, basis = self._signs(len(self._remainders)), self._range.basis
        rest = signs.sub_(basis @ self._operator.gram(basis, signs))
        self._remainders += self._quantity.form(self._operator, rest, self._products.multiply(rest)).tolist()
        self._found = self._summary(self._remainders, "hutch++")

    def _exact(self) -> None:
        """A block of unit vectors."""
        width = min(self._units, self._products.size - self._done)
        units = blocks.units(self._operator, self._done, width)
        self._add_up(units, self._products.multiply(units, measure=width == self._products.size))
        self._products.report(f"{self._done} of {self._products.size} entries of the diagonal")
        if self._done == self._products.size:
            self._found = Sampled(self._head, 0.0, 0.0, self._rounding, True, "exact")

    def _signs(self, done: int) -> Tensor:
        # Samples to the least number, then in blocks; never one beyond the budget.
        wanted = LEAST_SAMPLES - done if done < LEAST_SAMPLES else BLOCK
        return self._operator.signs(min(wanted, self._width, self._products.left), self._rng)

    def _summary(self, samples: list[float], method: str) -> Sampled:
        estimate = self._head + float(np.mean(samples))
        error, half = math.nan, math.inf
        if len(samples) > 1:
            error = float(student.standard_error(samples))
            half = float(student.reach(samples, self._confidence)) + self._rounding
        converged = len(samples) >= LEAST_SAMPLES and half <= self._quantity.target(estimate)
        # Samples that are equal, as of a diagonal matrix, have rounded in the same way.
        half += ROUNDING * torch.finfo(self._operator.dtype).eps * float(np.abs(samples).mean())
        self._products.report(self._quantity.show(estimate, half))
        return Sampled(estimate, error, error, half, converged, method)

    def _choose(self) -> Way:
        """The way on that is foretold to need the fewest products."""
        products, samples, taken = self._products, self._samples, len(self._samples)
        if taken < 2 or products.left < self._range.size + 2:
            return "plain"
        if self._range.size == 0:
            return "basis" if self._strategy == "hutch++" and self._range.exhausted else "plain"
        quantile = student.quantile(self._confidence, LEAST_SAMPLES)
        spread = float(student.deviation(samples))
        target = self._quantity.target(float(np.mean(samples)))
        if self._strategy == "auto":
            # What cannot be met is not what decides: then the ways are compared at what plain samples would reach.
            target = max(target, quantile * spread / math.sqrt(products.max_products))
        samples_for = (quantile / max(target, 1e-100 + 1e-9 * spread)) ** 2
        deflated = max(LEAST_SAMPLES, samples_for * self._quantity.spread(self._range.distances()) ** 2)
        # Without a basis the distances are the lengths of the same images.
        undeflated = samples_for * self._quantity.spread(self._range.lengths()) ** 2
        size, needed = self._last or (0, undeflated)
        grown, saved = self._range.size - size, needed - deflated
        self._last = self._range.size, deflated
        costs: list[tuple[float, Way]] = [(self._range.size + deflated, "basis")]
        if self._range.size < self._largest_basis and saved > 0 and deflated > LEAST_SAMPLES:
            # Each further direction costs two products, and saves at most what those before it did.
            directions = (deflated - LEAST_SAMPLES) * grown / saved
            costs.append((self._range.size + LEAST_SAMPLES + 2 * directions, "plain"))
        if self._strategy == "auto":
            costs.append((max(LEAST_SAMPLES, samples_for * spread**2) - taken, "plain"))
            if products.size <= products.left:
                costs.append((products.size, "exact"))
        return min(costs)[1]
