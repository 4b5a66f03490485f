"""``spectral_density``: how the eigenvalues are spread, by stochastic Lanczos quadrature."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse._base import checks, tables
from hesse._operators.probes import Rng
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import Checkpoint, State
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.estimate import chi_square, quadrature, student
from hesse._solvers.estimate.quadrature import Probe, Quadrature
from hesse._solvers.run import Callback, Products

# Products at once, once it is known that all eigenvalues are asked for.
BLOCK = 16
GRID_POINTS_PER_SIGMA = 8
MOST_GRID_POINTS = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""The density of eigenvalues, :math:`\rho(t) = \frac1n \sum_i \delta(t - \lambda_i)`, smoothed by a Gaussian.

    Attributes:
        grid: points t, shape (g,), float64 on the CPU: eight for each sigma.
        density: ρ smoothed, at the points; its integral is 1.
        low, high: a band that covers the smoothed density with probability ``confidence``, point by point, as far as
            the steps resolve it; from the spread of the probes.
        sigma: standard deviation of the Gaussian.
        nodes, weights: shape (probes, steps): each row is a quadrature of ρ by one probe; its weights sum to 1, and a
            row that ended early is filled with weights of zero. Where ``exact``, one row: all eigenvalues, ascending,
            each with weight 1/n.
        confidence: as asked for.
        converged: whether every probe went as far as asked for, or to the end of its Krylov space.
        num_products: products made.
        size: n, how many eigenvalues there are.
        exact: whether ρ is known exactly, as all n eigenvalues are; then the band is the density.
        reorthogonalized: whether memory held the vectors of Lanczos. Where it did not, nodes repeat and share the
            weight of one: a quadrature is off by multiples of eps·‖A‖, and resolves less by as many steps.
    """

    grid: Tensor
    density: Tensor
    low: Tensor
    high: Tensor
    sigma: float
    nodes: Tensor
    weights: Tensor
    confidence: float
    converged: bool
    num_products: int
    size: int
    exact: bool = False
    reorthogonalized: bool = True

    def moment(self, power: int) -> tuple[float, tuple[float, float]]:
        r"""The moment :math:`\frac1n \sum_i \lambda_i^p`, not smoothed, and the interval that covers it.

        Args:
            power: p ≥ 0; exact but for the sampling for p < 2·steps.

        Example:
            >>> import torch, hesse
            >>> rho = hesse.spectral_density(torch.diag(torch.tensor([1.0, 2.0, 3.0])), rng=0)
            >>> round(rho.moment(2)[0], 4)
            4.6667
        """
        checks.wholes("moment", 0, power=power)
        exponent = int(blocks.exponents(self.nodes.abs().max()))
        samples = (self.weights * blocks.ldexp(self.nodes, -exponent) ** power).sum(dim=1, keepdim=True)
        mean = samples.mean(dim=0)
        band = (mean, mean) if self.exact else _band(samples, self.confidence)
        value, low, high = (float(blocks.ldexp(each, power * exponent)) for each in (mean, *band))
        return value, (low, high)

    def __repr__(self) -> str:
        nodes = self.nodes[self.weights > 0]
        mean, interval = self.moment(1)
        return tables.labelled(
            [
                ("eigenvalues", f"{self.size}, from about {float(nodes.min()):.6g} to {float(nodes.max()):.6g}"),
                ("mean", tables.estimate(mean, interval, self.confidence)),
                ("smoothing", f"sigma {self.sigma:.3g}"),
                ("probes", f"{self.nodes.shape[0]}, of {self.nodes.shape[1]} steps"),
                ("products", str(self.num_products)),
                ("converged", tables.yes(self.converged)),
            ]
        )


def spectral_density(
    A: Any,
    *,
    num_probes: int = 10,
    num_steps: int = 80,
    sigma: float | None = None,
    confidence: float = 0.95,
    memory: int | str | None = None,
    rng: Rng = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> SpectralDensity:
    r"""The density of the eigenvalues of a symmetric operator, smoothed, with a band.

    Stochastic Lanczos quadrature: for random signs z, m steps of Lanczos with full reorthogonalization give a Gauss
    quadrature of :math:`z^\top f(A) z / n` with m nodes, whose mean over z is :math:`\mathrm{tr} f(A) / n`. Where the
    products asked for reach n, and n is at most 2000, n products give all eigenvalues, and the density is exact.

    Args:
        A: a symmetric operator of shape (n, n), or what ``hesse.as_operator`` takes for one.
        num_probes: how many random vectors, at least 2.
        num_steps: products with each.
        sigma: standard deviation of the smoothing Gaussian; a hundredth of the spectrum's width if not given.
        confidence: of the band, between 0 and 1.
        memory: what the vectors may take at their peak, beside what a product takes: bytes, or a size such as
            ``"2GiB"``, at least that of four vectors; a quarter of the device's memory where it is not given. Where it
            holds no basis of ``num_steps`` vectors, Lanczos goes on without reorthogonalization: then nodes
            repeat, moments are right to rounding for fewer powers, and ``reorthogonalized`` is false.
        rng: seed, or NumPy or PyTorch generator, of the signs.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, it goes on from that. It holds the bases of probes that go on.
        callback: given a ``hesse.Progress`` as it goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``SpectralDensity``: the density on a grid with a band, its quadrature, and its moments.

    Raises:
        ValueError: the operator is not square or not symmetric, or a number is out of range; also a sigma so small
            that the grid would have more than 100,000 points.
        MemoryBudgetError: ``memory`` allows fewer vectors than that.
        NonFiniteProductError: a product holds infinities or NaNs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix
    Anal. Appl. 38 (2017) 1075–1099; Ghorbani, Krishnan and Xiao, "An investigation into neural net optimization via
    Hessian eigenvalue density", ICML 2019.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.linspace(1, 2, 50))
        >>> rho = hesse.spectral_density(H, rng=0)
        >>> round(float(torch.trapezoid(rho.density, rho.grid)), 6)
        1.0
    """
    checks.wholes("spectral_density", 2, num_probes=num_probes)
    checks.wholes("spectral_density", 1, num_steps=num_steps)
    checks.numbers("spectral_density", least=None, optional=True, sigma=sigma)
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma given to spectral_density should be greater than 0 but is {sigma}.")
    checks.fractions("spectral_density", confidence=confidence)
    with Products(
        A,
        "spectral_density",
        max_products=num_probes * num_steps,
        callback=callback,
        progress=progress,
        memory=memory,
    ) as products:
        products.require_symmetric()
        if products.size == 0:
            raise ValueError("spectral_density needs an operator of size at least 1 but got one of shape (0, 0).")
        steps = min(num_steps, products.size)
        generator = products.generator(rng)
        products.expect(min(num_probes * steps, products.size))
        saved = products.resume(checkpoint, num_probes=num_probes, num_steps=num_steps)
        whole = products.size <= min(num_probes * steps, quadrature.LARGEST_MATRIX)
        room = quadrature.room(products, steps, num_probes, whole)
        probes: list[Probe] = []
        done: list[Quadrature] = []
        if saved is not None and not saved["whole"]:
            probes = quadrature.kept(products, saved, steps, bases=room.bases)
            done = [(kept[0], kept[1]) for kept in [saved[f"done.{place}"] for place in range(saved["done"])]]
        elif room.whole:
            probe = _whole(products, num_probes, generator, saved)
            exact = probe.basis.size == products.size
            done = [_all(probe) if exact else probe.quadrature()]
            if exact or not products.left:
                return _density(products, done, sigma, confidence, converged=exact, exact=exact)
        while products.left and len(done) < num_probes:
            if not probes:
                signs = products.operator.signs(min(room.probes, num_probes - len(done)), generator)
                probes = [Probe(products, start, steps, bases=room.bases) for start in blocks.pieces(signs)]
                del signs
            quadrature.advance(products, probes)
            # The basis of a probe that has ended is of no use any more.
            done += [probe.quadrature() for probe in probes if probe.ended]
            probes = [probe for probe in probes if not probe.ended]
            products.report(f"{len(done)} of {num_probes} probes done")
            products.keep(functools.partial(_state, probes, done))
        converged = len(done) == num_probes
        done += [probe.quadrature() for probe in probes]
        found = _density(products, done, sigma, confidence, converged=converged)
        return dataclasses.replace(found, reorthogonalized=room.bases)


def _whole(products: Products, num_probes: int, rng: np.random.Generator, saved: State | None) -> Probe:
    """A probe whose basis holds everything, or is invariant and so small that all probes take fewer products."""
    n = products.size
    if saved is None:
        probe = Probe(products, products.operator.signs(1, rng), n)
    else:
        (probe,) = quadrature.kept(products, saved, n)
    basis = probe.basis
    assert isinstance(basis, Basis)
    while products.left and basis.size < n:
        if num_probes * (basis.size + 1) >= n:
            while basis.width < min(BLOCK, n - basis.size):
                basis.push(products.operator.randn(1, rng))
        elif basis.exhausted:
            break
        basis.grow(min(basis.width, products.left))
        products.report(f"{basis.size} of {n} eigenvalues")
        products.keep(lambda: {**quadrature.state([probe]), "whole": True})
    return probe


def _state(probes: Sequence[Probe], done: Sequence[Quadrature]) -> State:
    kept = {f"done.{place}": torch.stack(found) for place, found in enumerate(done)}
    return {**quadrature.state(probes), **kept, "done": len(done), "whole": False}


def _all(probe: Probe) -> Quadrature:
    """All eigenvalues, each of which counts the same, from a basis of the whole space."""
    values, _ = probe.quadrature()
    return values, torch.full_like(values, 1 / len(values))


def _density(
    products: Products,
    done: Sequence[Quadrature],
    sigma: float | None,
    confidence: float,
    *,
    converged: bool,
    exact: bool = False,
) -> SpectralDensity:
    shape = len(done), max(len(values) for values, _ in done)
    nodes, weights = [torch.zeros(shape, dtype=torch.float64, device="cpu") for _ in range(2)]
    for row, (values, shares) in enumerate(done):
        nodes[row, : len(values)], weights[row, : len(values)] = values, shares
    found = nodes[weights > 0]
    left, right = float(found.min()), float(found.max())
    width = products.shrink(sigma) if sigma is not None else 0.01 * ((right - left) or abs(right) or 1.0)
    left, right = left - 6 * width, right + 6 * width
    points = math.ceil((right - left) / width * GRID_POINTS_PER_SIGMA)
    grow = products.grow
    if points > MOST_GRID_POINTS:
        least = grow((right - left) * GRID_POINTS_PER_SIGMA / MOST_GRID_POINTS)
        raise ValueError(
            f"sigma given to spectral_density should be at least {least:.2g} for a spectrum from {grow(left):.6g} to"
            f" {grow(right):.6g} but is {sigma}: a grid that shows it would have more than {MOST_GRID_POINTS} points."
        )
    grid = torch.linspace(left, right, points, dtype=torch.float64, device="cpu")
    curves = torch.stack([_smoothed(grid, *row, width) for row in zip(nodes, weights, strict=True)])
    density = curves.mean(dim=0)
    low, high = (density.clone(), density.clone()) if exact else _band(curves, confidence)
    return SpectralDensity(
        grid=blocks.ldexp(grid, products.exponent),
        density=blocks.ldexp(density, -products.exponent),
        low=blocks.ldexp(low, -products.exponent),
        high=blocks.ldexp(high, -products.exponent),
        sigma=grow(width) if sigma is None else sigma,
        nodes=blocks.ldexp(nodes, products.exponent),
        weights=weights,
        confidence=confidence,
        converged=converged,
        num_products=products.count,
        exact=exact,
        size=products.size,
    )


def _smoothed(grid: Tensor, nodes: Tensor, weights: Tensor, sigma: float) -> Tensor:
    bells = torch.exp(-0.5 * ((grid[:, None] - nodes) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return bells @ weights


def _band(samples: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The interval for the mean over the first dimension; boundless for a lone sample."""
    if len(samples) < 2:
        return torch.full_like(samples[0], -math.inf), torch.full_like(samples[0], math.inf)
    if bool((samples >= 0).all()):
        low, high = chi_square.interval(samples.numpy(), confidence)
        return torch.from_numpy(low), torch.from_numpy(high)
    mean = samples.mean(dim=0)
    half = torch.from_numpy(student.reach(samples.numpy(), confidence, hidden=student.HIDDEN / len(samples) ** 2))
    return mean - half, mean + half
