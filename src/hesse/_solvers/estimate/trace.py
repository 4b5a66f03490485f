"""``trace``: the sum of the diagonal."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from hesse._base import checks, tables
from hesse._operators.probes import Rng
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.estimate.quantity import Quantity
from hesse._solvers.estimate.sampling import LEAST_SAMPLES, Sampler
from hesse._solvers.estimate.xtrace import xtrace
from hesse._solvers.run import Callback, Products

METHODS = ("auto", "hutchinson", "hutch++", "xtrace", "exact")


@dataclasses.dataclass(frozen=True)
class TraceEstimate:
    """A trace, and how well it is known.

    Attributes:
        estimate: the trace.
        standard_error: of the mean of independent samples; zero where the trace is exact, NaN for XTrace.
        error_estimate: what XTrace takes its error to be, from leaving one vector out at a time, or from rounding once
            its basis holds the range; elsewhere the standard error.
        interval: (low, high), covers the trace with probability ``confidence``, or as far as rounding goes where the
            trace is exact; XTrace has none, so there it is (−∞, ∞).
        confidence: as asked for.
        converged: whether the interval reaches no farther than ``max(tol·|estimate|, atol)``; for XTrace, whether it
            would not if the error estimate were a standard error.
        num_products: products made.
        method: by which the estimate was made: ``"hutchinson"``, ``"hutch++"``, ``"xtrace"`` or ``"exact"``.
    """

    estimate: float
    standard_error: float
    error_estimate: float
    interval: tuple[float, float]
    confidence: float
    converged: bool
    num_products: int
    method: str

    def __float__(self) -> float:
        return self.estimate

    def __repr__(self) -> str:
        known = tables.estimate(self.estimate, self.interval, self.confidence)
        if self.method == "xtrace":
            known = f"{self.estimate:.6g} ± {self.error_estimate:.2g} (error estimate)"
        return tables.labelled(
            [
                ("trace", known),
                ("method", self.method),
                ("products", str(self.num_products)),
                ("converged", tables.yes(self.converged)),
            ]
        )


def trace(
    A: Any,
    *,
    method: Literal["auto", "hutchinson", "hutch++", "xtrace", "exact"] = "auto",
    tol: float = 0.05,
    atol: float = 0.0,
    confidence: float = 0.95,
    max_products: int = 1000,
    memory: int | str | None = None,
    rng: Rng = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> TraceEstimate:
    r"""The trace of an operator, :math:`\mathrm{tr} A = \mathrm{E}\, z^\top A z` for random signs z.

    Sampling goes on until the interval, by at least 30 independent samples, reaches no farther than
    :math:`\max(\mathrm{tol} \cdot |\mathrm{estimate}|, \mathrm{atol})` to each side.

    Args:
        A: a square operator, or what ``hesse.as_operator`` takes for one.
        method: ``"hutchinson"`` takes the mean of :math:`z_i^\top A z_i`; ``"hutch++"`` reads the trace off a basis of
            the range and samples only what remains, for eigenvalues that decay; ``"xtrace"`` does so with every vector
            left out in turn, which gives an error estimate but no interval; ``"exact"`` makes n products. ``"auto"``
            begins with Hutchinson's samples and goes on in the way that they foretell to be the cheapest of the
            first, the second and the exact one; where n is at most 30 it is exact.
        tol: half width of the interval relative to the estimate.
        atol: half width of the interval; a trace near zero never meets a relative one.
        confidence: of the interval, between 0 and 1.
        max_products: how many products may be made, at least 2.
        memory: what the vectors may take at their peak, beside what a product takes: bytes, or a size such as
            ``"2GiB"``, at least that of four vectors; a quarter of the device's memory where it is not given. It
            decides how many vectors go at once, and how large a basis may be.
        rng: seed, or NumPy or PyTorch generator, of the random vectors.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, the sampling goes on from it.
        callback: given a ``hesse.Progress`` as sampling goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``TraceEstimate``. Where products ran out, ``converged`` is false, and one ``hesse.ConvergenceWarning`` is
        issued.

    Raises:
        ValueError: the operator is not square, or a number is out of range, or ``"exact"`` needs more products than
            there may be.
        MemoryBudgetError: ``memory`` allows fewer vectors than the method needs.
        NonFiniteProductError: a product holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Commun. Stat. Simul. Comput. 19 (1990) 433–450; for the others ``hesse._solvers.estimate.sampling`` and
    ``hesse._solvers.estimate.xtrace``.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.tensor([1.0, 2.0, 3.0]))
        >>> hesse.trace(H).estimate
        14.0
    """
    checks.choices("trace", METHODS, method=method)
    checks.numbers("trace", tol=tol, atol=atol)
    checks.fractions("trace", confidence=confidence)
    checks.wholes("trace", 2, max_products=max_products)
    with Products(
        A, "trace", max_products=max_products, callback=callback, progress=progress, memory=memory
    ) as products:
        quantity = Quantity(
            form=blocks.dots,
            target=lambda estimate: max(tol * abs(estimate), products.shrink(atol)),
            # The variance of zᵀBz is 2·‖B‖² less what the diagonal has of it, and B = PAP is no larger than PA.
            spread=lambda distances: math.sqrt(2 * float((distances**2).mean())),
            show=lambda estimate, half: f"{products.grow(estimate):.6g} ± {products.grow(half):.2g}",
        )
        if method == "exact" and products.size > max_products:
            raise ValueError(
                f"The exact trace needs {products.size} products but max_products given to trace is {max_products}."
            )
        if method == "auto" and products.size <= min(LEAST_SAMPLES, max_products):
            method = "exact"
        generator = products.generator(rng)
        products.expect(products.size if method == "exact" else LEAST_SAMPLES)
        saved = products.resume(checkpoint, method=method, tol=tol, atol=atol, confidence=confidence)
        if method == "xtrace":
            found = xtrace(products, quantity.target, confidence, generator, saved)
        else:
            found = Sampler(products, quantity, method, confidence, generator).run(saved)
        grow, estimate, half = products.grow, found.estimate, found.half
        if not found.converged:
            products.warn(
                f"the trace is only known as {grow(estimate):.6g} ± {grow(min(half, found.error_estimate)):.2g}",
                "Raise max_products, memory, tol or atol.",
            )
        return TraceEstimate(
            grow(estimate),
            grow(found.standard_error),
            grow(found.error_estimate),
            (grow(estimate - half), grow(estimate + half)),
            confidence,
            found.converged,
            products.count,
            found.method,
        )
