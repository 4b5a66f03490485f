"""``trace_of``: the trace of a function of a symmetric operator, by stochastic Lanczos quadrature."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse import blocks
from hesse.estimate import quadrature, student
from hesse.estimate.checks import check_question
from hesse.estimate.quadrature import Probe
from hesse.operators.probes import Rng
from hesse.products import Callback, Products

# So many products give the matrix, and with it the answer, for less than sampling would.
EXACT_SIZE = 100
# The first stage of Stein's rule: from its spread follows how many probes there must be.
FIRST_PROBES = 10
# A matrix is made, where that takes fewer products than the probes, up to the size whose eigenvalues take seconds.
LARGEST_MATRIX = 2000
# Krylov bases of probes that go side by side take up to that much memory.
BASIS_BYTES = 2**30
# The part of the error allowed that the quadrature of one probe may take.
QUADRATURE_SHARE = 0.1
NOT_FINITE = "f given to trace_of is not finite at {value:.6g}, a value inside the operator's spectrum."


@dataclasses.dataclass(frozen=True)
class TraceOfEstimate:
    """The trace of a function of an operator, and how well it is known.

    Attributes:
        estimate: tr f(A).
        standard_error: of the mean over the probes; zero where the matrix was made.
        quadrature_error: how far the quadratures may be off in the mean, as the changes by their last steps foretell,
            and by rounding of the eigenvalues by eps·‖A‖.
        interval: (low, high): the interval of the sampling, at ``confidence``, widened by ``quadrature_error``.
        confidence: as asked for.
        converged: whether the interval reaches no farther than max(tol·|estimate|, atol).
        num_probes: how many random vectors were used; none where the matrix was made.
        num_products: products made.
    """

    estimate: float
    standard_error: float
    quadrature_error: float
    interval: tuple[float, float]
    confidence: float
    converged: bool
    num_probes: int
    num_products: int


def trace_of(
    f: Callable[[Tensor], Tensor],
    A: Any,
    *,
    tol: float = 0.05,
    atol: float = 0.0,
    confidence: float = 0.95,
    num_steps: int = 100,
    max_products: int = 10_000,
    rng: Rng = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> TraceOfEstimate:
    r"""The trace of a function of a symmetric operator, :math:`\mathrm{tr} f(A) = \sum_i f(\lambda_i)`.

    Stochastic Lanczos quadrature: for random signs z, m steps of Lanczos give a Gauss quadrature of
    :math:`z^\top f(A) z`, whose mean over z is the trace. Each probe goes on until its last steps changed little; ten
    probes tell by their spread how many there must be. Where n is at most 100, or at most 2000 and less than the
    products to come, the matrix itself is made.

    Args:
        f: takes eigenvalues as a float64 tensor of shape (m,), returns f of each.
        A: a symmetric operator of shape (n, n), or what ``hesse.as_operator`` takes for one.
        tol: half width of the interval relative to the estimate.
        atol: half width of the interval.
        confidence: of the sampling, between 0 and 1.
        num_steps: how many products a probe may take.
        max_products: how many products may be made in all.
        rng: seed or NumPy generator of the signs.
        callback: given a ``hesse.Progress`` as it goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``TraceOfEstimate``. Where products or steps ran out, ``converged`` is false, and one
        ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square or not symmetric, a number is out of range, or f is not finite at a value
            inside the spectrum.
        NonFiniteProductError: a product holds infinities or NaNs.

    Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal.
    Appl. 38 (2017) 1075–1099; Stein, "A two-sample test for a linear hypothesis whose power is independent of the
    variance", Ann. Math. Stat. 16 (1945) 243–258, for the number of probes.

    Example:
        >>> import torch, hesse
        >>> round(hesse.trace_of(torch.exp, torch.diag(torch.tensor([0.0, 1.0]))).estimate, 5)
        3.71828
    """
    return ask("trace_of", f, A, tol, atol, confidence, num_steps, max_products, rng, callback, progress)


def ask(
    question: str,
    f: Callable[[Tensor], Tensor],
    A: Any,
    tol: float,
    atol: float,
    confidence: float,
    num_steps: int,
    max_products: int,
    rng: Rng,
    callback: Callback | None,
    progress: bool,
    refusal: str = NOT_FINITE,
) -> TraceOfEstimate:
    """``trace_of`` under the name of the question that asks, with its words for a value where f is not finite."""
    check_question(question, tol=tol, atol=atol, confidence=confidence)
    if num_steps < 1:
        raise ValueError(f"num_steps given to {question} should be at least 1 but is {num_steps}.")
    with Products(A, question, max_products=max_products, callback=callback, progress=progress) as products:
        products.require_symmetric()
        traced = _Traced(products, f, tol, atol, confidence, refusal)
        if products.size <= min(EXACT_SIZE, max_products):
            result = traced.exact()
        else:
            result = traced.sampled(min(num_steps, products.size), np.random.default_rng(rng))
        if not result.converged:
            half = 0.5 * (result.interval[1] - result.interval[0])
            products.warn(
                f"the trace is only known as {result.estimate:.6g} ± {half:.2g}, of which {result.quadrature_error:.2g}"
                " is for the quadrature",
                "Raise max_products, num_steps, tol or atol.",
            )
        return result


class _Traced:
    def __init__(
        self,
        products: Products,
        f: Callable[[Tensor], Tensor],
        tol: float,
        atol: float,
        confidence: float,
        refusal: str,
    ) -> None:
        self._products, self._f, self._refusal = products, f, refusal
        self._tol, self._atol, self._confidence = tol, atol, confidence

    def _target(self, estimate: float) -> float:
        return max(self._tol * abs(estimate), self._atol)

    def _values(self, nodes: Tensor) -> Tensor:
        values = torch.as_tensor(self._f(nodes), dtype=torch.float64)
        finite = torch.isfinite(values)
        if values.shape != nodes.shape:
            raise ValueError(
                f"f given to {self._products.question} should return a value for each of {len(nodes)} eigenvalues but"
                f" returned shape {tuple(values.shape)}."
            )
        if not bool(finite.all()):
            raise ValueError(self._refusal.format(value=float(nodes[~finite][0])))
        return values

    def _rounding(self, nodes: Tensor, weights: Tensor, distance: float) -> float:
        """What a shift of the nodes by that distance would change; infinite where f ends."""
        here = self._values(nodes)
        changes = [
            (torch.as_tensor(self._f(nodes + shift), dtype=torch.float64) - here).abs()
            for shift in (-distance, distance)
        ]
        change = float((torch.maximum(*changes) * weights).sum())
        return change if math.isfinite(change) else math.inf

    def exact(self) -> TraceOfEstimate:
        """From all eigenvalues, by n products."""
        products = self._products
        identity = torch.eye(products.size, dtype=products.operator.dtype, device=products.operator.device)
        matrix = products.multiply(identity).double().cpu()
        eigenvalues = torch.linalg.eigvalsh(0.5 * (matrix + matrix.mT))
        total = float(self._values(eigenvalues).sum())
        norm = float(eigenvalues.abs().max()) if products.size else 0.0
        eps = torch.finfo(products.operator.dtype).eps
        error = self._rounding(eigenvalues, torch.ones_like(eigenvalues), eps * norm)
        return self._result(total, 0.0, error, 0.0, 0)

    def sampled(self, steps: int, rng: np.random.Generator) -> TraceOfEstimate:
        """From probes, as many as Stein's rule asks."""
        products = self._products
        vector_bytes = max(1, products.size * products.operator.dtype.itemsize)
        at_once = max(1, BASIS_BYTES // (steps * vector_bytes))
        samples: list[float] = []
        errors: list[float] = []
        wanted: float = FIRST_PROBES
        while len(samples) < wanted and products.left:
            signs = products.operator.signs(int(min(at_once, wanted - len(samples), 1000)), rng)
            for sample, error in self._side_by_side(signs, steps):
                samples.append(sample)
                errors.append(error)
            if len(samples) >= FIRST_PROBES:
                wanted = max(wanted, self._wanted(samples, errors))
                to_come = (wanted / len(samples) - 1) * products.count
                if products.size <= min(LARGEST_MATRIX, products.left, to_come):
                    return self.exact()
        if len(samples) < 2:
            return self._result(samples[0] if samples else math.nan, math.inf, math.inf, math.inf, len(samples))
        error, half = self._sampling(samples)
        return self._result(float(np.mean(samples)), error, float(np.mean(errors)), half, len(samples))

    def _sampling(self, samples: list[float]) -> tuple[float, float]:
        """The standard error of the mean, and its reach: by the spread of the first stage, as Stein's rule has it."""
        stage = min(len(samples), FIRST_PROBES)
        error = float(np.std(samples[:stage], ddof=1)) / math.sqrt(len(samples))
        return error, student.quantile(self._confidence, stage) * error

    def _wanted(self, samples: list[float], errors: list[float]) -> float:
        """How many probes make the interval short enough, as far as can be told by now."""
        # The error of the quadrature takes its part of what is allowed.
        allowed = self._target(float(np.mean(samples))) - float(np.mean(errors))
        _, reach = self._sampling(samples)
        if reach <= allowed:
            return len(samples)
        return math.ceil(len(samples) * min((reach / allowed) ** 2, 1e9)) if allowed > 0 else math.inf

    def _side_by_side(self, signs: Tensor, steps: int) -> list[tuple[float, float]]:
        """zᵀ·f(A)·z and the error of its quadrature, for each probe that made a step."""
        products = self._products
        probes = [Probe(products, start, steps) for start in blocks.pieces(signs)]
        found: dict[int, tuple[float, float]] = {}
        running = list(range(len(probes)))
        while running and products.left:
            taken = running[: products.left]
            images = products.multiply(torch.cat([probes[i].basis.next for i in taken], dim=1))
            for i, image in zip(taken, blocks.pieces(images), strict=True):
                probes[i].basis.take(image)
                found[i] = self._sample(probes[i])
            products.report(f"{len(running)} probes at step {probes[taken[0]].basis.size}")
            running = [i for i in running if i not in found or not self._is_done(probes[i], *found[i])]
        return list(found.values())

    def _is_done(self, probe: Probe, sample: float, error: float) -> bool:
        return probe.ended or error <= QUADRATURE_SHARE * self._target(sample)

    def _sample(self, probe: Probe) -> tuple[float, float]:
        """n·zᵀ·f(A)·z/‖z‖² by quadrature, and how far that may be off."""
        n = self._products.size
        nodes, weights = probe.quadrature()
        sample = n * float(self._values(nodes) @ weights)
        probe.values.append(sample)
        rounding = self._rounding(nodes, n * weights, probe.rounding)
        return sample, rounding + (0.0 if probe.basis.exhausted else quadrature.error(probe.values, n))

    def _result(self, estimate: float, error: float, quadrature: float, half: float, probes: int) -> TraceOfEstimate:
        reach = half + quadrature
        return TraceOfEstimate(
            estimate,
            error,
            quadrature,
            (estimate - reach, estimate + reach),
            self._confidence,
            reach <= self._target(estimate),
            probes,
            self._products.count,
        )
