"""XTrace: the trace by a basis of the range, each random vector in turn serving as the probe of what it misses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.estimate import student
from hesse._solvers.estimate.range_finder import RangeFinder
from hesse._solvers.estimate.sampling import UNKNOWN, Sampled
from hesse._solvers.run import Products

# Fewer vectors than that say too little about their own error.
LEAST_VECTORS = 8


def xtrace(
    products: Products,
    target: Callable[[float], float],
    confidence: float,
    rng: np.random.Generator,
    saved: State | None = None,
) -> Sampled:
    r"""The trace by XTrace, with more vectors until its error estimate is small enough for ``target(estimate)``.

    An interval would reach Student's quantile of standard errors; as many error estimates are compared with the target.

    With Q_i an orthonormal basis of A·Ω, vector i left out, and :math:`u_i = (I - Q_i Q_i^\top) \omega_i`, the estimate
    is the mean over i of

    .. math:: \mathrm{tr}(Q_i^\top A Q_i) + \frac{n - k + 1}{\|u_i\|^2}\, u_i^\top A u_i,

    all of them from Q, A·Q and matrices of size k: :math:`Q_i Q_i^\top = Q (I - s_i s_i^\top) Q^\top`. The direction of
    u_i is uniform for Gaussian ω, so its length is set to what it is in the mean, which lowers the variance.

    Source: Epperly, Tropp and Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM J.
    Matrix Anal. Appl. 45 (2024) 1–23.
    """
    operator, n = products.operator, products.size
    finder = RangeFinder(operator)
    probes, images = blocks.empty(operator), blocks.empty(operator)
    found = dataclasses.replace(UNKNOWN, method="xtrace")

    def state() -> State:
        return {"probes": probes, "images": images, "found": dataclasses.asdict(found), **finder.state()}

    if saved is not None:
        probes, images, found = saved["probes"], saved["images"], Sampled(**saved["found"])
        finder.load(saved)
    while products.left >= 2 and not found.converged and finder.size < n and not finder.exhausted:
        wanted = LEAST_VECTORS if finder.size == 0 else max(4, finder.size // 4)
        fresh = operator.randn(min(wanted, products.left // 2, n - finder.size), rng)
        known = finder.size
        kept = finder.append(products.multiply(fresh))
        probes = blocks.beside(probes, fresh[:, kept.to(fresh.device)])
        if finder.size > known:
            images = blocks.beside(images, products.multiply(finder.basis[:, known:]))
        found = _summary(_estimates(products, finder, probes, images), target, confidence)
        products.report(f"{found.estimate:.6g}, error estimate {found.error_estimate:.2g}")
        products.keep(state)
    return found


def _estimates(products: Products, finder: RangeFinder, probes: Tensor, images: Tensor) -> Tensor:
    """The estimates with each vector left out, (k,); a lone one once the basis holds the whole range."""
    operator, n, k = products.operator, products.size, finder.size
    core = blocks.gram(operator, finder.basis, images)
    if finder.exhausted or k == n:
        return core.diagonal().sum().unsqueeze(0)
    lone, distances = finder.leave_one_out()
    inside = blocks.gram(operator, finder.basis, probes)
    # What of each probe the basis without its own image holds.
    held = inside - lone * (lone * inside).sum(dim=0)
    crossed = blocks.gram(operator, images, probes)
    # uᵀAu for u = ω − Q·held: ωᵀAω − heldᵀQᵀAω is taken together, as what the lone direction has of it.
    forms = (lone * inside).sum(dim=0) * distances + (held * (core @ held - crossed)).sum(dim=0)
    lengths = blocks.dots(operator, probes, probes) - (held**2).sum(dim=0)
    kept = core.diagonal().sum() - (lone * (core @ lone)).sum(dim=0)
    return kept + torch.where(lengths > 0, (n - k + 1) * forms / lengths, 0)


def _summary(estimates: Tensor, target: Callable[[float], float], confidence: float) -> Sampled:
    if len(estimates) == 1:
        return Sampled(float(estimates), math.nan, 0.0, math.inf, True, "xtrace")
    estimate = float(estimates.mean())
    # The estimates share all their vectors but one; that their spread is that of a mean is a rule, not a theorem.
    error = float(student.standard_error(estimates.numpy()))
    reach = student.quantile(confidence, len(estimates)) * error
    converged = len(estimates) >= LEAST_VECTORS and reach <= target(estimate)
    return Sampled(estimate, math.nan, error, math.inf, converged, "xtrace")
