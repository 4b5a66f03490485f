"""Trust-region steps in Krylov spaces (GLTR), for Newton's and the Levenberg-Marquardt method alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.eigen.capacity import BASIS_BYTES, BASIS_VECTORS
from hesse._solvers.minimize.model import Step, minimize_model
from hesse._solvers.minimize.places import Place
from hesse._solvers.run import Products

KEPT = ("radius", "nit", "nfev", "first_slope", "failures")
# A step is taken where the function falls by this part of what the model foretells.
ACCEPTED = 1e-4
# Below the first the radius shrinks; above the second it grows.
POOR, GOOD = 0.25, 0.75
# A difference of two values is rounding where it is that small, in units of eps·|f|.
ROUNDING = 10
# So many steps in a row that improve nothing that is more than rounding end the search.
FAILURES = 8


class TrustRegion:
    r"""A point that moves downhill by steps s that minimize :math:`g^\top s + \frac12 s^\top A s` with ‖s‖ ≤ Δ.

    The minimizer within a Krylov space of A and g follows from a small matrix. After a refused step the same space has
    the minimizer for a smaller Δ, so refused steps cost an evaluation and no products.

    Attributes:
        place: the function at the current point.
        x: the point, (n,).
        ending: why the search has ended, or "" while it has not.

    Args:
        products: the question's products.
        place: the function at the first point.
        tol, atol: the gradient's norm to reach, relative to the first one and absolute.

    Source: Gould, Lucidi, Roma and Toint, "Solving the trust-region subproblem using the Lanczos method", SIAM J.
    Optim. 9 (1999) 504–525; Conn, Gould and Toint, Trust-Region Methods, SIAM 2000, chapters 6, 7 and 17.
    """

    def __init__(self, products: Products, place: Place, x: Tensor, tol: float, atol: float) -> None:
        self._products, self.place, self.x = products, place, x
        self.first_slope = place.slope
        self._tol, self._atol = tol, atol
        self.radius = math.inf
        self.nit, self.nfev, self.failures = 0, 1, 0
        self.ending = ""
        self._basis = self._begin()

    @property
    def target(self) -> float:
        """The gradient's norm that is small enough."""
        return max(self._tol * self.first_slope, self._atol)

    def _begin(self) -> Basis:
        """An empty Krylov space of the model here."""
        products = self._products
        products.move(self.place.operator, self.place.price)
        vector = max(1, products.size * products.operator.dtype.itemsize)
        capacity = max(2, min(products.size, BASIS_VECTORS, BASIS_BYTES // vector))
        basis = Basis(products, min(capacity, products.size), keep_products=False)
        if self.place.slope:
            basis.push(self.place.gradient)
        return basis

    def state(self) -> State:
        """All that the next product depends on."""
        return {"x": self.x, **{name: getattr(self, name) for name in KEPT}, **self._basis.state()}

    def load(self, saved: State) -> None:
        """Go on from what ``state`` gave."""
        self.x = saved["x"]
        self.place = self.place.at(self.x)
        for name in KEPT:
            setattr(self, name, saved[name])
        self._basis = self._begin()
        self._basis.go_on_from(saved)
        self._products.go_on_from(saved)

    def run(self) -> None:
        """Take steps until the gradient is small enough, or why not."""
        while not self.ending:
            if self.place.slope <= self.target:
                self.ending = "converged"
            else:
                step = self._step()
                if step is not None:
                    self._try(step)

    def _step(self) -> Step | None:
        """The step for the radius, from a Krylov space that is large enough; None where products have run out."""
        products, basis = self._products, self._basis
        while True:
            if basis.size:
                step = minimize_model(self._matrix(), self.place.slope, self.radius)
                residual = products.grow(basis.coupling) * abs(float(step.coordinates[-1]))
                if basis.exhausted or basis.size == basis.capacity or residual <= self._accuracy(step):
                    return step
            if products.left < self.place.price:
                if basis.size and not products.stopped:
                    return step
                self.ending = "stopped" if products.stopped else "max_products"
                return None
            basis.grow()
            if basis.size == 1 and math.isinf(self.radius):
                self.radius = self._first_radius()
            products.report(f"step {self.nit + 1}, value {self.place.value:.6g}, gradient {self.place.slope:.2g}")
            products.keep(self.state)

    def _matrix(self) -> Tensor:
        return blocks.ldexp(self._basis.matrix, self._products.exponent)

    def _first_radius(self) -> float:
        a = self._products.grow(float(self._basis.matrix[0, 0]))
        return 10 * self.place.slope / abs(a) if a else 1.0

    def _accuracy(self, step: Step) -> float:
        """The residual of the model's gradient that is small enough: less and less, for superlinear convergence."""
        ratio = self.place.slope / self.first_slope
        eta = min(0.1, ratio**0.5)
        return max(eta * self.place.slope, 0.1 * self.target)

    def _try(self, step: Step) -> None:
        """Evaluate the function at the end of a step; take the step, or make the radius smaller."""
        products, place = self._products, self.place
        s = self._basis.ritz_vectors(step.coordinates.unsqueeze(-1)).squeeze(-1)
        x = place.space.flatten(place.space.unflatten(self.x + s))
        if torch.equal(x, self.x):
            self.ending = "precision"
            return
        there = place.at(x)
        self.nfev += 1
        ratio, rounding = self._ratio(there, step, s)
        if ratio > ACCEPTED:
            self.failures = 0
            self.nit += 1
            products.count += place.gradient_price
            self.x, self.place = x, there
            self._basis = self._begin()
            if ratio > GOOD and step.on_boundary:
                self.radius = max(self.radius, 2 * step.length)
            elif ratio < POOR:
                self.radius = 0.5 * step.length
            return
        self.failures += rounding
        if self.failures == FAILURES:
            self.ending = "precision"
        self.radius = self._shrunk(there, step)

    def _ratio(self, there: Place, step: Step, s: Tensor) -> tuple[float, bool]:
        """How far the function falls in units of what the model foretells; and whether values cannot tell."""
        here = self.place
        if not math.isfinite(there.value) or not there.is_finite:
            return -math.inf, False
        noise = ROUNDING * here.eps * max(abs(here.value), abs(there.value))
        fall = here.value - there.value
        if step.decrease > noise / ACCEPTED**0.5:
            return fall / step.decrease, False
        if fall < -noise or there.slope >= here.slope:
            return -math.inf, True
        # Gradients have digits where the difference of values has none; the trapezoidal rule is exact for quadratics.
        slopes = float(blocks.dots(here.operator, here.gradient + there.gradient, s.unsqueeze(-1)))
        return -0.5 * slopes / step.decrease, True

    def _shrunk(self, there: Place, step: Step) -> float:
        """A smaller radius: where the parabola through both values has its minimum, within limits."""
        return 0.25 * step.length
