"""The trace of a function of an operator, as it becomes known: by probes, or by the matrix where that is less."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hesse._base import tables
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.estimate import quadrature, student
from hesse._solvers.estimate.quadrature import Probe, Quadrature
from hesse._solvers.run import Products

# So many products give the matrix, and with it the answer, for less than sampling would.
EXACT_SIZE = 100
# From their spread follows how many probes there must be. Ten that look alike by chance end it too often: on a lone
# large eigenvalue the interval then covers in 92 of 100 cases where it promises 95; with twenty, in 93.
FIRST_PROBES = 20
MOST_PROBES = 1000
# How exact an eigenvalue can be, in units of eps times its size.
ROUNDING = 8
# f is met where it varies by that much of what it varies at so many points of the line.
MET, POINTS = 1e-3, 1000
# The part of the error allowed that the quadrature of one probe may take.
QUADRATURE_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class TraceOfEstimate:
    """The trace of a function of an operator, and how well it is known.

    Attributes:
        estimate: tr f(A).
        standard_error: of the mean over the probes; zero where the matrix was made.
        quadrature_error: how far the quadratures may be off in the mean, as the changes by their last steps foretell,
            and by rounding: of the eigenvalues by eps·‖A‖, and of f. Infinite where f is nearly the same at all nodes
            of a probe, and not between or around them.
        interval: (low, high): the interval of the sampling, at ``confidence``, widened by ``quadrature_error``.
        confidence: as asked for.
        converged: whether the interval reaches no farther than ``max(tol·|estimate|, atol)``, or than rounding of each
            eigenvalue by 8·eps of itself would change it.
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

    def __float__(self) -> float:
        return self.estimate

    def __repr__(self) -> str:
        return tables.labelled(
            [
                ("tr f(A)", tables.estimate(self.estimate, self.interval, self.confidence)),
                ("probes", str(self.num_probes) if self.num_probes else "none, from the whole matrix"),
                ("products", str(self.num_products)),
                ("converged", tables.yes(self.converged)),
            ]
        )


class SpectralSum:
    """tr f(A), as far as it is known.

    Args:
        products: with A.
        f: of a tensor of eigenvalues.
        target: how far from the truth an estimate may be.
        confidence: of the interval.
        steps: how many products a probe may take.
        refusal: what is said of a value where f is not finite.
        rng: generator of the probes.
    """

    def __init__(
        self,
        products: Products,
        f: Callable[[Tensor], Tensor],
        target: Callable[[float], float],
        confidence: float,
        steps: int,
        refusal: str,
        rng: np.random.Generator,
    ) -> None:
        whole = products.size <= max(EXACT_SIZE, quadrature.LARGEST_MATRIX)
        self._room = quadrature.room(products, min(steps, products.size), MOST_PROBES, whole)
        self._products, self._f, self._target, self._refusal = products, f, target, refusal
        self._confidence, self._steps, self._rng = confidence, min(steps, products.size), rng
        # Quadratures that are done, their errors, and what relative rounding of the eigenvalues would change.
        self._samples: list[float] = []
        self._errors: list[float] = []
        self._floors: list[float] = []
        # How many there must be, as far as can be told by now, and those that go side by side at present.
        self._wanted: float = FIRST_PROBES
        self._probes: list[Probe] = []
        # The columns of the matrix, once it is made.
        self._columns = blocks.empty(products.operator)
        # The nodes of the samples, and what f gave there.
        self._seen = torch.zeros(2, 0, dtype=torch.float64, device="cpu")

    def run(self, saved: State | None) -> TraceOfEstimate:
        """Go on until the answer is good enough or no products are left; from ``saved``, if any."""
        products = self._products
        if saved is not None:
            self._load(saved)
        if self._columns.shape[1] or (self._room.whole and products.size <= min(EXACT_SIZE, products.max_products)):
            return self._exact()
        while products.left:
            if not self._probes:
                if len(self._samples) >= self._wanted:
                    break
                self._begin()
            self._step()
            if not self._running():
                self._gather()
                to_come = (self._wanted / max(len(self._samples), 1) - 1) * products.count
                if self._room.whole and products.size <= min(products.left, to_come):
                    return self._exact()
            elif self._room.whole and products.size <= min(products.left, products.count):
                # As many products again, whose answer is exact.
                self._gather()
                return self._exact()
            products.keep(self._state, decided=True)
        # What products were left for.
        self._gather()
        return self._summary()

    def _state(self) -> State:
        kept = {"samples": self._samples, "errors": self._errors, "floors": self._floors, "wanted": self._wanted}
        # Of the probes that go on as well.
        seen = torch.cat([self._seen, *[self._taken(probe) for probe in self._probes if probe.values]], dim=1)
        return {**kept, "columns": self._columns, "f": seen, **quadrature.state(self._probes)}

    def _load(self, saved: State) -> None:
        self._seen = saved["f"]
        if self._seen.shape[1]:
            given = torch.as_tensor(self._f(self._seen[0]), dtype=torch.float64, device="cpu")
            self._products.refuse_unless(torch.equal(given, self._seen[1]), "was written with another f")
        self._samples, self._errors, self._floors = saved["samples"], saved["errors"], saved["floors"]
        self._wanted, self._columns = saved["wanted"], saved["columns"]
        self._probes = quadrature.kept(self._products, saved, self._steps, bases=self._room.bases)

    def _begin(self) -> None:
        """Probes that go side by side."""
        number = int(min(self._room.probes, self._wanted - len(self._samples)))
        starts = blocks.pieces(self._products.operator.signs(number, self._rng))
        self._probes = [Probe(self._products, start, self._steps, bases=self._room.bases) for start in starts]

    def _running(self) -> list[Probe]:
        return [probe for probe in self._probes if not self._is_done(probe)]

    def _is_done(self, probe: Probe) -> bool:
        return probe.ended or (bool(probe.values) and probe.error <= QUADRATURE_SHARE * self._target(probe.values[-1]))

    def _step(self) -> None:
        """One product with each probe that goes on, and what its quadrature gives now."""
        products, n = self._products, self._products.size
        running = self._running()
        taken = running[: products.left]
        quadrature.advance(products, taken)
        for probe in taken:
            nodes, weights = self._quadrature(probe)
            values = self._values(nodes)
            # The weights are for a unit vector, and the squared norm of signs is n.
            probe.values.append(n * float(values @ weights))
            probe.error = self._rounding(nodes, n * weights, products.grow(probe.rounding))
            if not probe.basis.exhausted:
                probe.error += quadrature.error(probe.values, n) if self._is_met(nodes, values) else math.inf
        products.report(f"{len(running)} probes at step {taken[0].basis.size}")

    def _is_met(self, nodes: Tensor, values: Tensor) -> bool:
        """Whether the nodes have met where f varies: otherwise quadratures are the same after each step, and wrong."""
        # So far apart are the end of a uniform spectrum and the last node, twice over.
        margin = 2 * float(nodes[-1] - nodes[0]) / len(nodes) ** 2
        line = torch.linspace(
            float(nodes[0]) - margin, float(nodes[-1]) + margin, POINTS, dtype=torch.float64, device="cpu"
        )
        around = torch.as_tensor(self._f(line), dtype=torch.float64, device="cpu")
        around = around[torch.isfinite(around)]
        return not len(around) or bool(values.max() - values.min() >= MET * (around.max() - around.min()))

    def _quadrature(self, probe: Probe) -> Quadrature:
        nodes, weights = probe.quadrature()
        return blocks.ldexp(nodes, self._products.exponent), weights

    def _taken(self, probe: Probe) -> Tensor:
        """The nodes of a probe, and f there, (2, m)."""
        nodes, _ = self._quadrature(probe)
        return torch.stack([nodes, self._values(nodes)])

    def _gather(self) -> None:
        """Make samples of the probes, and tell how many there must be."""
        for probe in self._probes:
            if probe.values:
                self._samples.append(probe.values[-1])
                self._errors.append(probe.error)
                self._floors.append(self._products.size * self._floor(*self._quadrature(probe)))
                if self._products.is_kept:
                    self._seen = torch.cat([self._seen, self._taken(probe)], dim=1)
        self._probes = []
        if len(self._samples) >= FIRST_PROBES:
            self._wanted = max(self._wanted, self._needed())

    def _needed(self) -> float:
        """How many probes make the interval short enough, as far as can be told by now."""
        # The error of the quadrature takes its part of what is allowed.
        floor, bias = float(np.mean(self._floors)), float(np.mean(self._errors))
        allowed = max(self._target(float(np.mean(self._samples))), floor) - bias
        count, reach = len(self._samples), self._reach()
        if reach <= allowed:
            return count
        return math.ceil(count * min(reach / allowed, 1e5) ** 2) if allowed > 0 else math.inf

    def _summary(self) -> TraceOfEstimate:
        """What the samples say."""
        count = len(self._samples)
        if count < 2:
            return self._result(self._samples[0] if count else math.nan, math.inf, math.inf, math.inf, 0.0, count)
        error = float(student.standard_error(self._samples))
        mean, bias, floor = (float(np.mean(each)) for each in (self._samples, self._errors, self._floors))
        return self._result(mean, error, bias, self._reach(), floor, count)

    def _reach(self) -> float:
        """How far the interval of the sampling reaches, skewed as far as so few samples do not show."""
        hidden = student.HIDDEN / len(self._samples) ** 2
        return float(student.reach(self._samples, self._confidence, hidden=hidden))

    def _exact(self) -> TraceOfEstimate:
        """From all eigenvalues, by n products; what the samples say where the callback stops them."""
        products, operator = self._products, self._products.operator
        while (done := self._columns.shape[1]) < products.size:
            if not products.left:
                return self._summary()
            units = blocks.units(operator, done, min(quadrature.WIDTH, products.size - done))
            self._columns = blocks.beside(self._columns, products.multiply(units, measure=False))
            products.report(f"{self._columns.shape[1]} of {products.size} columns")
            products.keep(self._state)
        matrix = operator.whole(self._columns).cpu().double()
        # Near one, LAPACK need not divide the matrix by a number that is no power of two.
        exponent = int(blocks.exponents(matrix.abs().amax())) if products.size else 0
        scaled = blocks.ldexp(matrix, -exponent)
        eigenvalues = torch.linalg.eigvalsh(0.5 * (scaled + scaled.mT))
        eigenvalues = blocks.ldexp(eigenvalues, exponent + products.exponent)
        norm = float(eigenvalues.abs().max()) if products.size else 0.0
        ones = torch.ones_like(eigenvalues)
        bias = self._rounding(eigenvalues, ones, torch.finfo(operator.dtype).eps * norm)
        estimate, floor = float(self._values(eigenvalues).sum()), self._floor(eigenvalues, ones)
        return self._result(estimate, 0.0, bias, 0.0, floor, 0)

    def _values(self, nodes: Tensor) -> Tensor:
        try:
            values = torch.as_tensor(self._f(nodes), dtype=torch.float64, device="cpu")
        except (TypeError, ValueError) as error:
            error.add_note(f"{self._products.question} calls f with a tensor of eigenvalues, such as torch.exp takes.")
            raise
        finite = torch.isfinite(values)
        if values.shape != nodes.shape:
            raise ValueError(
                f"f given to {self._products.question} should return a value for each of {len(nodes)} eigenvalues but"
                f" returned shape {tuple(values.shape)}."
            )
        if not bool(finite.all()):
            raise ValueError(self._refusal.format(value=float(nodes[~finite][0])))
        return values

    def _floor(self, nodes: Tensor, weights: Tensor) -> float:
        """What no eigenvalue allows to be known that is itself known to rounding."""
        change = self._rounding(nodes, weights, torch.finfo(self._products.operator.dtype).eps * nodes)
        return ROUNDING * change if math.isfinite(change) else 0.0

    def _rounding(self, nodes: Tensor, weights: Tensor, distance: float | Tensor) -> float:
        """What a shift of the nodes by that distance would change, and rounding of f; infinite where f ends."""
        here = self._values(nodes)
        changes = [
            (torch.as_tensor(self._f(nodes + shift), dtype=torch.float64, device="cpu") - here).abs()
            for shift in (-distance, distance)
        ]
        own = ROUNDING * torch.finfo(here.dtype).eps * here.abs()
        change = float(((torch.maximum(*changes) + own) * weights).sum())
        return change if math.isfinite(change) else math.inf

    def _result(
        self, estimate: float, error: float, bias: float, half: float, floor: float, probes: int
    ) -> TraceOfEstimate:
        reach = half + bias
        return TraceOfEstimate(
            estimate,
            error,
            bias,
            (estimate - reach, estimate + reach),
            self._confidence,
            reach <= max(self._target(estimate), floor),
            probes,
            self._products.count,
        )
