"""``diagonal``: the entries on the diagonal, from products alone."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks, tables
from hesse._operators.probes import Rng
from hesse._ranks.shards import Shards
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import Checkpoint, State
from hesse._solvers.estimate.range_finder import RangeFinder
from hesse._solvers.estimate.sampling import BLOCK, LEAST_SAMPLES
from hesse._solvers.estimate.xdiag import xdiag
from hesse._solvers.run import Callback, Products

METHODS = ("auto", "hutchinson", "xdiag", "exact")
# Vectors that XDiag takes for each of its probes, and they are made when its basis grows.
SKETCH = 8
KEPT = ("_count", "_mean", "_deviations", "_probes", "_images", "_entries", "_done", "_last")


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalEstimate:
    """A diagonal, and how well it is known.

    Attributes:
        estimate: the entries, shape (n,), in the operator's dtype and on its device; where vectors are cut up among
            ranks, those of this rank, as of ``errors``.
        errors: how far each entry may be off, shape (n,): standard errors of means of independent samples for
            Hutchinson's estimator, error estimates from leaving one vector out for XDiag, or from rounding once its
            basis holds the range, zeros where it is exact.
        error_estimate: the Euclidean norm of ``errors``.
        converged: whether ``error_estimate`` is at most max(tol·‖estimate‖, atol). That is one standard error of an
            estimate, not an interval: the true error is of that size, and in some runs larger.
        num_products: products made.
        method: ``"hutchinson"``, ``"xdiag"`` or ``"exact"``.
        shards: how vectors are cut up among ranks, or None.
    """

    estimate: Tensor
    errors: Tensor
    error_estimate: float
    converged: bool
    num_products: int
    method: str
    shards: Shards | None = None

    def __repr__(self) -> str:
        values = self.estimate
        spread = f", from {float(values.min()):.6g} to {float(values.max()):.6g}" if len(values) else ""
        # One rank alone knows no more than its part.
        norm, here = f", of a norm of {float(values.cpu().double().norm()):.6g}", ""
        if self.shards is not None:
            norm, here = "", f" of {self.shards.size} on this rank"
        return tables.labelled(
            [
                ("diagonal", f"{len(values)} entries{here}{spread}"),
                ("error", f"{self.error_estimate:.2g}{norm}"),
                ("method", self.method),
                ("products", str(self.num_products)),
                ("converged", tables.yes(self.converged)),
            ]
        )


def diagonal(
    A: Any,
    *,
    method: Literal["auto", "hutchinson", "xdiag", "exact"] = "auto",
    tol: float = 0.05,
    atol: float = 0.0,
    max_products: int = 1000,
    memory: int | str | None = None,
    rng: Rng = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> DiagonalEstimate:
    r"""The diagonal of an operator, :math:`A_{jj} = \mathrm{E}\, z_j (A z)_j` for random signs z.

    Goes on until the Euclidean norm of the standard errors is at most
    :math:`\max(\mathrm{tol} \cdot \|d\|, \mathrm{atol})`; the true error is of that size, and in some runs larger.

    Args:
        A: a square operator, or what ``hesse.as_operator`` takes for one.
        method: ``"hutchinson"`` takes means; ``"xdiag"``, for a symmetric operator, reads off what a basis of the range
            holds and samples the rest; ``"exact"`` makes n products. ``"auto"`` begins with Hutchinson's samples and
            goes on in the way that they foretell to be the cheapest.
        tol: one standard error relative to the norm of the diagonal.
        atol: one standard error.
        max_products: how many products may be made, at least 2.
        memory: what the vectors may take at their peak, beside what a product takes: bytes, or a size such as
            ``"2GiB"``, at least that of four vectors; a quarter of the device's memory where it is not given. It
            decides how many vectors go at once, and how large a basis may be.
        rng: seed, or NumPy or PyTorch generator, of the signs.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, the sampling goes on from it.
        callback: given a ``hesse.Progress`` as sampling goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``DiagonalEstimate``; ``A.unflatten(found.estimate)`` has the structure of a Hessian's inputs. Where products
        ran out, ``converged`` is false, and one ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square, for ``"xdiag"`` not symmetric, or a number is out of range.
        MemoryBudgetError: ``memory`` allows fewer vectors than the method needs.
        NonFiniteProductError: a product holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", Appl. Numer. Math. 57 (2007)
    1214–1229; for XDiag ``hesse._solvers.estimate.xdiag``.

    Example:
        >>> import torch, hesse
        >>> hesse.diagonal(torch.tensor([[2.0, 1.0], [1.0, 3.0]])).estimate
        tensor([2., 3.])
    """
    checks.choices("diagonal", METHODS, method=method)
    checks.numbers("diagonal", tol=tol, atol=atol)
    checks.wholes("diagonal", 2, max_products=max_products)
    with Products(
        A, "diagonal", max_products=max_products, callback=callback, progress=progress, memory=memory
    ) as products:
        if method == "exact" and products.size > max_products:
            raise ValueError(
                f"The exact diagonal needs {products.size} products but max_products given to diagonal is"
                f" {max_products}."
            )
        if method == "xdiag":
            products.require_symmetric()
        generator = products.generator(rng)
        products.expect(products.size if method == "exact" else LEAST_SAMPLES)
        saved = products.resume(checkpoint, method=method, tol=tol, atol=atol)
        found = _Diagonal(products, method, tol, atol, generator).run(saved)
        found = dataclasses.replace(
            found,
            estimate=blocks.ldexp(found.estimate, products.exponent),
            errors=blocks.ldexp(found.errors, products.exponent),
            error_estimate=products.grow(found.error_estimate),
        )
        if not found.converged:
            products.warn(
                f"the diagonal is only known to {found.error_estimate:.2g} in norm",
                "Raise max_products, memory, tol or atol.",
            )
        return found


class _Diagonal:
    """The diagonal as it becomes known."""

    def __init__(self, products: Products, method: str, tol: float, atol: float, rng: np.random.Generator) -> None:
        self._products, self._method, self._rng = products, method, rng
        self._operator = products.operator
        self._tol, self._atol = tol, atol
        # Mean and sum of squared deviations of Hutchinson's samples, updated as Welford does.
        self._count = 0
        self._mean = torch.zeros(self._operator.length, dtype=self._operator.dtype, device=self._operator.device)
        self._deviations = torch.zeros_like(self._mean)
        self._finder = RangeFinder(products.operator)
        self._probes = blocks.empty(products.operator)
        self._images = blocks.empty(products.operator)
        self._last: tuple[int, float] | None = None
        # The estimate by XDiag and its errors, where they are the answer.
        self._sketched: tuple[Tensor, Tensor] | None = None
        # Of the exact diagonal, how many entries are done, and these; others are zero.
        self._done, self._entries = 0, self._mean[:0]
        sketches = products.operator.symmetric and method != "hutchinson"
        largest = min(products.max_products, products.size) if sketches else 0
        # Beside mean and deviations: signs and images; and the probes, the basis, its images, and what comes of them.
        room = products.plan(4 + SKETCH * (method == "xdiag"), max(8 * BLOCK + 2, 4 + 3 * BLOCK + SKETCH * largest))
        self._width = max(1, min(BLOCK, (room - 2) // 8))
        self._largest_basis = max(0, min((room - 3 * self._width - 1) // SKETCH, largest))

    def run(self, saved: State | None = None) -> DiagonalEstimate:
        """Sample until the errors are small enough or no products are left; go on from ``saved``, if any."""
        products, always = self._products, self._method == "xdiag"
        if saved is not None:
            self._load(saved)
        if (
            self._method == "exact"
            or self._done
            or (self._method == "auto" and products.size <= min(LEAST_SAMPLES, products.left))
        ):
            return self._exact()
        while products.left // (1 + always):
            self._sample(min(self._width, products.left // (1 + always)))
            way = "xdiag"
            if not always:
                error, target = self._report(self._mean, self._standard_errors())
                if error <= target and self._count >= LEAST_SAMPLES:
                    return self._best()
                way = self._choose(error, target)
            if way == "exact":
                return self._exact()
            if way == "xdiag":
                fresh = self._finder.basis[:, self._images.shape[1] :]
                self._images = blocks.beside(self._images, products.multiply(fresh))
                found = xdiag(self._finder, self._probes, self._images)
                error, target = self._report(*found)
                if always or error <= target:
                    self._sketched = found
                if error <= target or (always and self._full):
                    return self._best()
            self._keep()
        return dataclasses.replace(self._best(), converged=False)

    def _best(self) -> DiagonalEstimate:
        """What is known now."""
        if self._sketched is not None:
            return self._found(*self._sketched, "xdiag")
        # One sample has no spread.
        errors = self._standard_errors() if self._count > 1 else torch.full_like(self._mean, torch.inf)
        return self._found(self._mean, errors, "hutchinson" if self._count else "exact")

    def _keep(self) -> None:
        def state() -> State:
            kept = {name: getattr(self, name) for name in KEPT}
            if self._sketched is not None:
                kept["sketched"] = torch.stack(self._sketched)
            return {**kept, **self._finder.state()}

        self._products.keep(state, decided=True)

    def _load(self, saved: State) -> None:
        for name in KEPT:
            setattr(self, name, saved[name])
        self._finder.load(saved)
        if "sketched" in saved:
            self._sketched = saved["sketched"][0], saved["sketched"][1]

    @property
    def _full(self) -> bool:
        return self._finder.size >= self._largest_basis or self._finder.exhausted

    def _sample(self, width: int) -> None:
        signs = self._operator.signs(width, self._rng)
        images = self._products.multiply(signs)
        was_full = self._full
        if not was_full:
            kept = self._finder.append(images[:, : self._largest_basis - self._finder.size])
            taken = signs[:, : len(kept)]
            self._probes = blocks.beside(self._probes, taken[:, kept.to(taken.device)])
        samples = signs.mul_(images)
        del images
        for sample in samples.unbind(dim=1):
            self._count += 1
            change = sample - self._mean
            self._mean.add_(change, alpha=1 / self._count)
            self._deviations.addcmul_(change, sample.sub_(self._mean))
        if self._finder.exhausted and not was_full:
            self._confirm()

    def _confirm(self) -> None:
        """Whether the range is exhausted, by one product with a normal vector.

        Two vectors of signs may agree wherever the operator acts, and say nothing of what is left; a normal vector lies
        in no given subspace. Its image is one more of the basis where it is new.
        """
        finder, products = self._finder, self._products
        finder.exhausted = False
        # The images of the basis come after it.
        if products.left < finder.size - self._images.shape[1] + 2:
            return
        normal = self._operator.randn(1, self._rng)
        if bool(finder.append(products.multiply(normal))):
            self._probes = blocks.beside(self._probes, normal)

    def _standard_errors(self) -> Tensor:
        return (self._deviations / (self._count * max(self._count - 1, 1))).sqrt_()

    def _choose(self, error: float, target: float) -> str:
        """The way on that is foretold to need the fewest products: "plain", "grow", "xdiag" or "exact"."""
        left, size = self._products.left, self._finder.size
        costs = {"plain": ((error / target) ** 2 - 1) * self._count if target else math.inf}
        if size:
            # Leave-one-out tells what a basis misses before a product is spent on it; that goes on as a power of its
            # size, until there are two sizes to tell which at once.
            missed = math.sqrt(float((self._finder.distances() ** 2).mean()) / size)
            (before, earlier), self._last = self._last or (size, math.inf), (size, missed)
            if missed <= target:
                costs["xdiag"] = size - self._images.shape[1]
            elif not self._full and before == size:
                costs["grow"] = 0
            elif not self._full and missed < earlier and target:
                power = math.log(size / before) / math.log(earlier / missed)
                costs["grow"] = (2 * (missed / target) ** min(power, 50) - 1) * size - self._images.shape[1]
        if self._method == "auto":
            costs["exact"] = self._products.size
        return min([way for way in costs if way == "plain" or costs[way] <= left], key=lambda way: costs[way])

    def _exact(self) -> DiagonalEstimate:
        products = self._products
        if not self._done:
            self._entries = torch.zeros_like(self._mean)
        while self._done < products.size:
            width = min(self._width, products.size - self._done)
            if products.left < width:
                return dataclasses.replace(self._best(), converged=False)
            units = blocks.units(self._operator, self._done, width)
            self._entries += units.mul_(products.multiply(units, measure=False)).sum(dim=1)
            self._done += width
            products.report(f"{self._done} of {products.size} entries of the diagonal")
            self._keep()
        return self._found(self._entries, torch.zeros_like(self._entries), "exact")

    def _norm(self, vector: Tensor) -> float:
        return float(blocks.norms(self._operator, vector.unsqueeze(-1)))

    def _report(self, estimate: Tensor, errors: Tensor) -> tuple[float, float]:
        """The norm of the errors, and what it may be."""
        error, norm, grow = self._norm(errors), self._norm(estimate), self._products.grow
        self._products.report(f"norm {grow(norm):.6g}, error {grow(error):.2g}")
        return error, max(self._tol * norm, self._products.shrink(self._atol))

    def _found(self, estimate: Tensor, errors: Tensor, method: str) -> DiagonalEstimate:
        error, target = self._report(estimate, errors)
        converged, shards = error <= target, self._operator.shards
        return DiagonalEstimate(estimate, errors, error, converged, self._products.count, method, shards)
