"""``frobenius_norm``: the root of the sum of all squared entries."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from hesse._base import checks, tables
from hesse._operators.operator import Operator
from hesse._operators.probes import Rng
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.estimate.quantity import Quantity
from hesse._solvers.estimate.sampling import LEAST_SAMPLES, Sampler, Strategy
from hesse._solvers.run import Callback, Products


@dataclasses.dataclass(frozen=True)
class NormEstimate:
    """A norm, and how well it is known.

    Attributes:
        estimate: the norm.
        standard_error: of the estimate; zero where it is exact.
        interval: (low, high), covers the norm with probability ``confidence``.
        confidence: as asked for.
        converged: whether the interval reaches no farther than max(tol·estimate, atol).
        num_products: products made.
        method: ``"hutchinson"``, ``"hutch++"`` or ``"exact"``.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    converged: bool
    num_products: int
    method: str

    def __float__(self) -> float:
        return self.estimate

    def __repr__(self) -> str:
        return tables.labelled(
            [
                ("norm", tables.estimate(self.estimate, self.interval, self.confidence)),
                ("method", self.method),
                ("products", str(self.num_products)),
                ("converged", tables.yes(self.converged)),
            ]
        )


def frobenius_norm(
    A: Any,
    *,
    tol: float = 0.05,
    atol: float = 0.0,
    confidence: float = 0.95,
    max_products: int = 1000,
    memory: int | str | None = None,
    rng: Rng = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> NormEstimate:
    r"""The Frobenius norm of an operator, :math:`\|A\|_F^2 = \mathrm{tr}\, A^\top A = \mathrm{E}\, \|A z\|^2`.

    The trace of AᵀA, sampled as ``hesse.trace`` does by its method ``"auto"``, one product a sample; exact by n
    products where n is at most 30, or where that is foretold to be the cheapest.

    Args:
        A: a square operator, or what ``hesse.as_operator`` takes for one.
        tol: half width of the interval relative to the estimate.
        atol: half width of the interval.
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
        ``NormEstimate``. Where products ran out, ``converged`` is false, and one ``hesse.ConvergenceWarning`` is
        issued.

    Raises:
        ValueError: the operator is not square, or a number is out of range.
        MemoryBudgetError: ``memory`` allows fewer vectors than the method needs.
        NonFiniteProductError: a product holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Commun. Stat. Simul. Comput. 19 (1990) 433–450; ``hesse._solvers.estimate.sampling``.

    Example:
        >>> import torch, hesse
        >>> hesse.frobenius_norm(torch.tensor([[3.0, 4.0], [0.0, 12.0]])).estimate
        13.0
    """
    checks.numbers("frobenius_norm", tol=tol, atol=atol)
    checks.fractions("frobenius_norm", confidence=confidence)
    checks.wholes("frobenius_norm", 2, max_products=max_products)
    with Products(
        A, "frobenius_norm", max_products=max_products, callback=callback, progress=progress, memory=memory
    ) as products:

        def target(square: float) -> float:
            # The interval of the square that reaches down to the norm less its error; upwards it is shorter.
            norm = math.sqrt(square)
            reach = min(max(tol * norm, products.shrink(atol)), norm)
            return 2 * norm * reach - reach**2

        quantity = Quantity(
            form=_squares,
            target=target,
            spread=lambda distances: float((distances**2).std()) if len(distances) > 1 else math.inf,
            show=lambda square, half: (
                f"{products.grow(math.sqrt(square)):.6g}, its square ± {products.grow(half, 2):.2g}"
            ),
        )
        strategy: Strategy = "exact" if products.size <= min(LEAST_SAMPLES, max_products) else "auto"
        generator = products.generator(rng)
        products.expect(min(products.size, LEAST_SAMPLES))
        saved = products.resume(checkpoint, tol=tol, atol=atol, confidence=confidence)
        found = Sampler(products, quantity, strategy, confidence, generator).run(saved)
        norm = math.sqrt(found.estimate) if found.estimate >= 0 else math.nan
        error = found.standard_error / (2 * norm) if norm else found.standard_error
        low, high = (max(found.estimate + sign * found.half, 0.0) for sign in (-1, 1))
        interval = (products.grow(math.sqrt(low)), products.grow(math.sqrt(high)))
        if not found.converged:
            products.warn(
                f"the Frobenius norm is only known to lie from {interval[0]:.6g} to {interval[1]:.6g}",
                "Raise max_products, tol or atol.",
            )
        return NormEstimate(
            products.grow(norm),
            products.grow(error),
            interval,
            confidence,
            found.converged,
            products.count,
            found.method,
        )


def _squares(operator: Operator, vectors: Tensor, images: Tensor) -> Tensor:
    """‖A·u‖² for each column."""
    return blocks.dots(operator, images, images)
