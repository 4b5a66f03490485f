"""``trace_of``: the trace of a function of a symmetric operator, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from hesse._base import checks
from hesse._operators.probes import Rng
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.estimate.spectral_sum import SpectralSum, TraceOfEstimate
from hesse._solvers.run import Callback, Products

NOT_FINITE = "f given to trace_of is not finite at {value:.6g}, a value inside the operator's spectrum."


def trace_of(
    f: Callable[[Tensor], Tensor],
    A: Any,
    *,
    tol: float = 0.05,
    atol: float = 0.0,
    confidence: float = 0.95,
    num_steps: int = 100,
    max_products: int = 10_000,
    memory: int | str | None = None,
    rng: Rng = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> TraceOfEstimate:
    r"""The trace of a function of a symmetric operator, :math:`\mathrm{tr} f(A) = \sum_i f(\lambda_i)`.

    Stochastic Lanczos quadrature: for random signs z, m steps of Lanczos give a Gauss quadrature of
    :math:`z^\top f(A) z`, whose mean over z is the trace. Each probe goes on until its last steps changed little and
    its nodes have met where f varies; twenty probes tell by their spread how many there must be. Where n is at most
    100, or at most 2000 and no more than the products made so far or those to come, the matrix itself is made.

    Args:
        f: takes eigenvalues as a float64 tensor of shape (m,), returns f of each.
        A: a symmetric operator of shape (n, n), or what ``hesse.as_operator`` takes for one.
        tol: half width of the interval relative to the estimate.
        atol: half width of the interval.
        confidence: of the sampling, between 0 and 1.
        num_steps: how many products a probe may take.
        max_products: how many products may be made in all.
        memory: what the vectors may take at their peak, beside what a product takes: bytes, or a size such as
            ``"2GiB"``, at least that of four vectors; a quarter of the device's memory where it is not given. Where it
            holds no basis of ``num_steps`` vectors, Lanczos goes on without reorthogonalization: then a
            quadrature takes more steps, and its error counts eps·‖A‖ for each of them.
        rng: seed, or NumPy or PyTorch generator, of the signs.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, it goes on from that. It holds the bases of the probes that are not done, or the columns of
            the matrix.
        callback: given a ``hesse.Progress`` as it goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``TraceOfEstimate``. Where products or steps ran out, ``converged`` is false, and one
        ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square or not symmetric, a number is out of range, or f is not finite at a value
            inside the spectrum.
        MemoryBudgetError: ``memory`` allows fewer vectors than that.
        NonFiniteProductError: a product holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, operator, f or version, or damaged.

    Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal.
    Appl. 38 (2017) 1075–1099; for the interval ``hesse.estimate.student``.

    Example:
        >>> import torch, hesse
        >>> round(hesse.trace_of(torch.exp, torch.diag(torch.tensor([0.0, 1.0]))).estimate, 5)
        3.71828
    """
    return ask(
        "trace_of",
        "trace",
        f,
        A,
        NOT_FINITE,
        tol,
        atol,
        confidence,
        num_steps,
        max_products,
        memory,
        rng,
        checkpoint,
        callback,
        progress,
    )


def ask(
    question: str,
    noun: str,
    f: Callable[[Tensor], Tensor],
    A: Any,
    refusal: str,
    tol: float,
    atol: float,
    confidence: float,
    num_steps: int,
    max_products: int,
    memory: int | str | None,
    rng: Rng,
    checkpoint: Checkpoint | str | Path | None,
    callback: Callback | None,
    progress: bool,
) -> TraceOfEstimate:
    """``trace_of`` under another name and noun, with other words for a value where f is not finite."""
    checks.functions(question, f=f)
    checks.numbers(question, tol=tol, atol=atol)
    checks.fractions(question, confidence=confidence)
    checks.wholes(question, 1, num_steps=num_steps)
    with Products(
        A, question, max_products=max_products, callback=callback, progress=progress, memory=memory
    ) as products:
        products.require_symmetric()
        generator = products.generator(rng)
        # Of a handful of probes at least.
        products.expect(5 * num_steps)
        saved = products.resume(checkpoint, tol=tol, atol=atol, confidence=confidence, num_steps=num_steps)
        result = SpectralSum(
            products, f, lambda estimate: max(tol * abs(estimate), atol), confidence, num_steps, refusal, generator
        ).run(saved)
        if not result.converged:
            half, bias = 0.5 * (result.interval[1] - result.interval[0]), result.quadrature_error
            products.warn(
                f"the {noun} is only known as {result.estimate:.6g} ± {half:.2g}, of which {bias:.2g} is for the"
                " quadrature",
                "Raise max_products, num_steps, tol or atol.",
            )
        return result
