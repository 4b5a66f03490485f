"""``trace``: the sum of the diagonal, by Hutchinson's estimator."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse.estimate import student
from hesse.operators.probes import Rng
from hesse.products import Callback, Products

# The t interval is that of normal samples, and stopping early favors intervals that are too short: by then there are
# enough samples for both to matter little.
LEAST_SAMPLES = 30
BLOCK = 16


@dataclasses.dataclass(frozen=True)
class TraceEstimate:
    """A trace, and how well it is known.

    Attributes:
        estimate: the mean of the samples.
        standard_error: of that mean; zero where the trace is exact.
        interval: (low, high), covers the trace with probability ``confidence``.
        confidence: as asked for.
        converged: whether the interval reaches no farther than max(tol·|estimate|, atol).
        num_products: products made, one a sample.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    converged: bool
    num_products: int


def trace(
    A: Any,
    *,
    tol: float = 0.05,
    atol: float = 0.0,
    confidence: float = 0.95,
    max_products: int = 1000,
    rng: Rng = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> TraceEstimate:
    r"""The trace of an operator, :math:`\mathrm{tr} A = \mathrm{E}\, z^\top A z` for random signs z.

    Hutchinson's estimator: the mean of :math:`z_i^\top A z_i` with a Student t interval, at least 30 samples, until
    the interval reaches no farther than :math:`\max(\mathrm{tol} \cdot |\mathrm{estimate}|, \mathrm{atol})` to each
    side. Where n is at most 30 the diagonal itself is read off, by n products with unit vectors.

    Args:
        A: a square operator, or what ``hesse.as_operator`` takes for one.
        tol: half width of the interval relative to the estimate.
        atol: half width of the interval; a trace near zero never meets a relative one.
        confidence: of the interval, between 0 and 1.
        max_products: how many products may be made, at least 2.
        rng: seed or NumPy generator of the signs.
        callback: given a ``hesse.Progress`` as sampling goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``TraceEstimate``. Where products ran out, ``converged`` is false, and one ``hesse.ConvergenceWarning`` is
        issued.

    Raises:
        ValueError: the operator is not square, or a number is out of range.
        NonFiniteProductError: a product holds infinities or NaNs.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Commun. Stat. Simul. Comput. 19 (1990) 433–450.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.tensor([1.0, 2.0, 3.0]))
        >>> hesse.trace(H).estimate
        14.0
    """
    for name, value in (("tol", tol), ("atol", atol)):
        if not value >= 0:
            raise ValueError(f"{name} given to trace should be at least 0 but is {value}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence given to trace should be between 0 and 1 but is {confidence}.")
    if max_products < 2:
        raise ValueError(f"max_products given to trace should be at least 2 but is {max_products}.")
    with Products(A, "trace", max_products=max_products, callback=callback, progress=progress) as products:
        if products.size <= min(LEAST_SAMPLES, max_products):
            return _exact(products, confidence)
        result = _sampled(products, tol, atol, confidence, np.random.default_rng(rng))
        if not result.converged:
            half = 0.5 * (result.interval[1] - result.interval[0])
            products.warn(
                f"the trace is only known as {result.estimate:.6g} ± {half:.2g}", "Raise max_products, tol or atol."
            )
        return result


def _exact(products: Products, confidence: float) -> TraceEstimate:
    operator = products.operator
    units = torch.eye(products.size, dtype=operator.dtype, device=operator.device)
    total = float(_forms(products, units).sum()) if products.size else 0.0
    return TraceEstimate(total, 0.0, (total, total), confidence, True, products.count)


def _sampled(products: Products, tol: float, atol: float, confidence: float, rng: np.random.Generator) -> TraceEstimate:
    samples: list[float] = []
    estimate = error = half = math.nan
    converged = False
    while products.left and not converged:
        # Samples to the least number, then in blocks; never one beyond the budget.
        wanted = LEAST_SAMPLES - len(samples) if len(samples) < LEAST_SAMPLES else BLOCK
        signs = products.operator.signs(min(wanted, BLOCK, products.left), rng)
        samples += _forms(products, signs).tolist()
        estimate = float(np.mean(samples))
        if len(samples) > 1:
            error = float(student.standard_error(samples))
            half = student.quantile(confidence, len(samples)) * error
        converged = len(samples) >= LEAST_SAMPLES and half <= max(tol * abs(estimate), atol)
        products.report(f"{estimate:.6g} ± {half:.2g}")
    interval = (estimate - half, estimate + half)
    return TraceEstimate(estimate, error, interval, confidence, converged, products.count)


def _forms(products: Products, Z: Tensor) -> Tensor:
    """zᵀ·A·z for each column, float64."""
    return products.operator.gram(Z, products.multiply(Z)).diagonal().double().cpu()
