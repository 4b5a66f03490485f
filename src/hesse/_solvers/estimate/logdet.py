"""``logdet``: the logarithm of the determinant of a positive definite operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hesse._operators.probes import Rng
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.estimate.spectral_sum import TraceOfEstimate
from hesse._solvers.estimate.trace_of import ask
from hesse._solvers.run import Callback


def logdet(
    A: Any,
    *,
    tol: float = 0.01,
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
    r"""The logarithm of the determinant, :math:`\log \det A = \mathrm{tr} \log A`, of a positive definite operator.

    By ``hesse.trace_of``. Every Ritz value lies inside the spectrum, so one that is zero or less proves that the
    operator is not positive definite. Of a sparse matrix whose factors fit into the memory,
    ``hesse.factorize(A).logdet`` is exact.

    Args:
        A: a positive definite operator of shape (n, n), or what ``hesse.as_operator`` takes for one; for the Hessian of
            a minimum usually ``H.shift(s)``.
        tol: half width of the interval relative to the estimate.
        atol: half width of the interval; a log-determinant near zero meets a relative one only where it is exact.
        confidence: of the sampling, between 0 and 1.
        num_steps: how many products a random vector may take; the root of the condition number says how many it needs.
        max_products: how many products may be made in all.
        memory: as for ``hesse.trace_of``.
        rng: seed, or NumPy or PyTorch generator, of the random vectors.
        checkpoint: as for ``hesse.trace_of``.
        callback: given a ``hesse.Progress`` as it goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``TraceOfEstimate``. Where products or steps ran out, ``converged`` is false, and one
        ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square, not symmetric or not positive definite, or a number is out of range.
        MemoryBudgetError: ``memory`` allows fewer than four vectors.
        NonFiniteProductError: a product holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: as ``hesse.trace_of``.

    Example:
        >>> import math, torch, hesse
        >>> round(hesse.logdet(torch.diag(torch.tensor([1.0, 2.0, 4.0]))).estimate / math.log(2), 4)
        3.0
    """
    refusal = (
        "logdet needs a positive definite operator but this one has an eigenvalue of at most {value:.6g}, as a Ritz"
        " value shows. Add a shift: A.shift(s)."
    )
    return ask(
        "logdet",
        "log-determinant",
        torch.log,
        A,
        refusal,
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
