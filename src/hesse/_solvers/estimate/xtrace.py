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

    The estimates e_i share their other vectors, so the variance of their mean is :math:`s^2 / k + c` for their variance
    s² and the mean c of their covariances. Estimate i is right in the mean over ω_i alone, and so is
    :math:`e_{i \setminus l}`, with vector l left out as well, which does not depend on ω_l. Hence

    .. math:: \mathrm{E}\, (e_i - e_{i \setminus l}) (e_l - e_{l \setminus i}) = \mathrm{Cov}(e_i, e_l),

    and c is the mean of the left side over all pairs. That is ours.

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
    # Probes, the basis, its images, a copy of one that grows, and the new vectors and images.
    fewest, most = min(LEAST_VECTORS, n), min(products.max_products // 2, n)
    most = products.plan(6 * fewest, 6 * max(fewest, most)) // 6
    while products.left >= 2 and not found.converged and finder.size < most and not finder.exhausted:
        wanted = LEAST_VECTORS if finder.size == 0 else max(4, finder.size // 4)
        fresh = operator.randn(min(wanted, products.left // 2, most - finder.size), rng)
        known = finder.size
        kept = finder.append(products.multiply(fresh))
        probes = blocks.beside(probes, fresh[:, kept.to(fresh.device)])
        if finder.size > known:
            images = blocks.beside(images, products.multiply(finder.basis[:, known:]))
        if finder.exhausted or finder.is_whole:
            found = _read_off(products, finder, images, target)
        else:
            found = _summary(*_estimates(products, finder, probes, images), target, confidence)
        grow = products.grow
        products.report(f"{grow(found.estimate):.6g}, error estimate {grow(found.error_estimate):.2g}")
        products.keep(state)
    return found


def _estimates(products: Products, finder: RangeFinder, probes: Tensor, images: Tensor) -> tuple[Tensor, float]:
    """The estimates with each vector left out, (k,), and the mean of their covariances."""
    operator, n, k = products.operator, products.size, finder.size
    core = blocks.gram(operator, finder.basis, images)
    lone, _ = finder.leave_one_out()
    inside, crossed = blocks.gram(operator, finder.basis, probes), blocks.gram(operator, images, probes)
    squares, turned, pushed = blocks.dots(operator, probes, probes), core @ lone, core @ inside

    def without(out: Tensor, images: Tensor, i: Tensor) -> Tensor:
        """The estimates by the probes i, for orthonormal directions of Q that are left out, (directions, k, any)."""
        # What of each probe the rest of the basis holds.
        along = (out * inside[:, i]).sum(dim=1, keepdim=True)
        held = inside[:, i] - (out * along).sum(dim=0)
        # uᵀAu for u = ω − Q·held: ωᵀAω − heldᵀQᵀAω is taken together, as what is left out has of it.
        forms = (along.squeeze(1) * (out * finder.triangle[:, i]).sum(dim=1)).sum(dim=0)
        forms = forms + (held * (pushed[:, i] - (images * along).sum(dim=0) - crossed[:, i])).sum(dim=0)
        lengths = squares[i] - (held**2).sum(dim=0)
        kept = core.diagonal().sum() - (out * images).sum(dim=(0, 1))
        return kept + torch.where(lengths > 0, (n - k + len(out)) * forms / lengths, 0)

    places = torch.arange(k, device="cpu")
    estimates = without(lone.unsqueeze(0), turned.unsqueeze(0), places)
    changes = torch.zeros(k, k, dtype=torch.float64, device="cpu")
    for i in range(k if k > 1 else 0):
        own, others = places == i, places[places != i]
        overlaps = lone[:, own].mT @ lone[:, others]
        lengths = (1 - overlaps**2).clamp(min=torch.finfo(overlaps.dtype).eps).sqrt()
        out, images = (
            torch.stack([part[:, own].expand(-1, k - 1), (part[:, others] - part[:, own] * overlaps) / lengths])
            for part in (lone, turned)
        )
        changes[i, others] = estimates[i] - without(out, images, places[own])
    return estimates, float((changes * changes.mT).sum()) / (k * max(k - 1, 1))


def _read_off(products: Products, finder: RangeFinder, images: Tensor, target: Callable[[float], float]) -> Sampled:
    """The trace where Q holds the range: what is left has a trace of at most √n times its Frobenius norm."""
    estimate = float(blocks.dots(products.operator, finder.basis, images).sum())
    error = math.sqrt(products.size) * finder.unseen
    return Sampled(estimate, math.nan, error, math.inf, error <= target(estimate), "xtrace")


def _summary(estimates: Tensor, covariance: float, target: Callable[[float], float], confidence: float) -> Sampled:
    estimate = float(estimates.mean())
    if len(estimates) == 1:
        return Sampled(estimate, math.nan, math.inf, math.inf, False, "xtrace")
    error = math.hypot(float(student.standard_error(estimates.numpy())), math.sqrt(max(covariance, 0.0)))
    reach = student.quantile(confidence, len(estimates)) * error
    converged = len(estimates) >= LEAST_VECTORS and reach <= target(estimate)
    return Sampled(estimate, math.nan, error, math.inf, converged, "xtrace")
