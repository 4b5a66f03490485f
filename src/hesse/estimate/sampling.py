"""Sampling a trace by Hutchinson's estimator, deflated once that is cheaper: adaptive Hutch++."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hesse import blocks
from hesse.estimate import student
from hesse.estimate.quantity import Quantity
from hesse.estimate.range_finder import RangeFinder
from hesse.products import Products

# The t interval is that of normal samples, and stopping early favors intervals that are too short: by then there are
# enough samples for both to matter little.
LEAST_SAMPLES = 30
BLOCK = 16
# How exact a form is, in units of eps times its value: all there is to tell where deflation leaves nothing.
ROUNDING = 8
# A deflation basis takes up to that much memory.
BASIS_BYTES = 2**30

Strategy = Literal["auto", "hutchinson", "hutch++"]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A trace: ``estimate`` ± ``half`` with the confidence asked for, and the size of its error."""

    estimate: float
    standard_error: float
    error_estimate: float
    half: float
    converged: bool
    method: str


UNKNOWN = Sampled(math.nan, math.nan, math.nan, math.inf, False, "exact")


def exact(products: Products, quantity: Quantity, otherwise: Sampled = UNKNOWN) -> Sampled:
    """The sum over all unit vectors, by n products; ``otherwise`` where the callback stops it on the way."""
    operator = products.operator
    total = 0.0
    for start in range(0, products.size, BLOCK):
        width = min(BLOCK, products.size - start)
        if products.left < width:
            return otherwise
        units = blocks.units(operator, start, width)
        total += float(quantity.form(operator, units, products.multiply(units)).sum())
        products.report(f"{start + width} of {products.size} entries of the diagonal")
    return Sampled(total, 0.0, 0.0, 0.0, True, "exact")


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
        self._last: tuple[int, float] | None = None
        vector_bytes = products.size * products.operator.dtype.itemsize
        # Twice: the basis is copied when it grows. A third of the products for it is the split of Hutch++.
        self._largest_basis = min(BASIS_BYTES // max(1, 2 * vector_bytes), products.max_products // 3, products.size)

    def run(self) -> Sampled:
        """Sample until the interval is short enough or no products are left."""
        samples: list[float] = []
        found = dataclasses.replace(UNKNOWN, method="hutchinson")
        while self._products.left and not found.converged:
            signs = self._signs(len(samples))
            images = self._products.multiply(signs)
            samples += self._quantity.form(self._operator, signs, images).tolist()
            found = self._summary(samples, 0.0, "hutchinson")
            if self._strategy == "hutch++":
                found = dataclasses.replace(found, converged=False)
            if found.converged or self._strategy == "hutchinson":
                continue
            if self._range.size < self._largest_basis and not self._range.exhausted:
                self._range.append(images[:, : self._largest_basis - self._range.size])
            choice = self._choose(samples)
            if choice == "exact":
                return exact(self._products, self._quantity, found)
            if choice == "deflate":
                return self._deflated(found)
        return found

    def _signs(self, done: int) -> Tensor:
        # Samples to the least number, then in blocks; never one beyond the budget.
        wanted = LEAST_SAMPLES - done if done < LEAST_SAMPLES else BLOCK
        return self._operator.signs(min(wanted, BLOCK, self._products.left), self._rng)

    def _summary(self, samples: list[float], head: float, method: str, rounding: float = 0.0) -> Sampled:
        estimate = head + float(np.mean(samples))
        error, half = math.nan, math.inf
        if len(samples) > 1:
            error = float(student.standard_error(samples))
            half = student.reach(samples, self._confidence) + rounding
        converged = len(samples) >= LEAST_SAMPLES and half <= self._quantity.target(estimate)
        self._products.report(self._quantity.show(estimate, half))
        return Sampled(estimate, error, error, half, converged, method)

    def _choose(self, samples: list[float]) -> str:
        """The way on that is foretold to need the fewest products: "plain", "grow", "deflate" or "exact"."""
        products, taken = self._products, len(samples)
        if self._range.size == 0 or taken < 2:
            return "deflate" if self._strategy == "hutch++" and self._range.exhausted else "plain"
        quantile = student.quantile(self._confidence, LEAST_SAMPLES)
        spread = float(np.std(samples, ddof=1))
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
        costs = {"deflate": self._range.size + deflated}
        if self._range.size < self._largest_basis and saved > 0 and deflated > LEAST_SAMPLES:
            # Each further direction costs two products, and saves at most what those before it did.
            directions = (deflated - LEAST_SAMPLES) * grown / saved
            costs["grow"] = self._range.size + LEAST_SAMPLES + 2 * directions
        if self._strategy == "auto":
            costs["plain"] = max(LEAST_SAMPLES, samples_for * spread**2) - taken
            if products.size <= products.left:
                costs["exact"] = products.size
        return min(costs, key=lambda way: costs[way])

    def _deflated(self, plain: Sampled) -> Sampled:
        """The rest of the question with the basis as it is."""
        head = rounding = 0.0
        basis = self._range.basis
        if self._products.left < basis.shape[1] + 2:
            # Hutch++ by a budget too small for it.
            return plain
        for block in blocks.pieces(basis, BLOCK):
            if self._products.left == 0:
                return plain
            parts = self._quantity.form(self._operator, block, self._products.multiply(block))
            head += float(parts.sum())
            rounding += ROUNDING * torch.finfo(self._operator.dtype).eps * float(parts.abs().sum())
            self._products.report(f"deflating {basis.shape[1]} directions")
        samples: list[float] = []
        found = plain
        while self._products.left and not found.converged:
            signs = self._signs(len(samples))
            remainder = signs - basis @ self._operator.gram(basis, signs)
            images = self._products.multiply(remainder)
            samples += self._quantity.form(self._operator, remainder, images).tolist()
            found = self._summary(samples, head, "hutch++", rounding)
        return found
