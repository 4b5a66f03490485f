"""Trust-region steps in subspaces, for Newton's method and that of Levenberg and Marquardt alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesse._base.errors import NonFiniteProductError
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.minimize.model import Step, minimize_model
from hesse._solvers.minimize.places import Place
from hesse._solvers.minimize.subspace import Subspace
from hesse._solvers.run import Products

KEPT = ("first_slope", "last_slope", "radius", "nit", "nfev", "failures", "growths", "at_edge")
# A step is taken where the function falls by this part of what the model predicts.
ACCEPTED = 1e-4
# Where it falls by less than the first part the radius shrinks; by more than the second it grows.
POOR, GOOD = 0.25, 0.75
# So many steps in a row that make the radius twice as large; each further one makes it larger by another factor of two.
STEADY = 8
# The first radius in units of the step to the minimum along the gradient.
FIRST_RADIUS = 10
# The model's gradient is made smaller by this factor times the square of how much the last step has made the function's
# smaller (Eisenstat and Walker, SIAM J. Sci. Comput. 17 (1996) 16–32).
QUADRATIC = 0.9
# A difference of two values needs so many units of their rounding.
DIGITS = 100
# Vectors beside the basis: points and gradients here and there, a step, and what is left of a product.
PASSING = 10
# So many refused steps in a row for which values have no digits end the search.
FAILURES = 8


class TrustRegion:
    r"""A point that moves downhill by steps s that minimize :math:`g^\top s + \frac12 s^\top A s` with ‖s‖ ≤ Δ.

    The minimizer within a subspace follows from a small matrix. After a refused step the same space has the minimizer
    for a smaller Δ, so a refused step costs an evaluation and no products.

    Args:
        products: the question's products.
        place: the function at the first point.
        x: the first point, (n,).
        tol, atol: the norm of the gradient to reach, relative to the first one and absolute.
        kind: of the subspaces.

    Attributes:
        place: the function at the current point.
        x: the current point, (n,).
        nit: steps taken.
        nfev: points evaluated.
        ending: why the search has ended, or "" while it has not.

    Source: Gould, Lucidi, Roma and Toint, "Solving the trust-region subproblem using the Lanczos method", SIAM J.
    Optim. 9 (1999) 504–525; Conn, Gould and Toint, Trust-Region Methods, SIAM 2000, chapters 6, 7 and 17.
    """

    def __init__(
        self, products: Products, place: Place, x: Tensor, tol: float, atol: float, kind: type[Subspace]
    ) -> None:
        self._products, self._tol, self._atol, self._kind = products, tol, atol, kind
        self.place, self.x = place, x
        self.first_slope = self.last_slope = place.slope
        self.radius = math.inf
        self.nit, self.nfev, self.failures, self.growths = 0, 1, 0, 0
        # Whether the function was not finite where a larger radius led.
        self.at_edge = False
        products.count += place.gradient_price
        self.ending = ""
        # How many vectors a subspace may hold.
        self._room = products.plan(PASSING + kind.least, PASSING + kind.most) - PASSING
        self._space = self._begin(None)

    @property
    def target(self) -> float:
        """The norm of the gradient that is small enough."""
        return max(self._tol * self.first_slope, self._atol)

    def _begin(self, earlier: Subspace | None) -> Subspace:
        """The subspace of the model here, before its first product."""
        self._products.move(self.place.operator, self.place.price)
        return self._kind(self._products, self.place, self._room, earlier)

    def state(self) -> State:
        """All that the next product depends on."""
        kept = {name: getattr(self, name) for name in KEPT}
        return {"x": self.x, "value": self.place.value, **kept, **self._space.state()}

    def load(self, saved: State) -> None:
        """Go on from what ``state`` gave."""
        self.x = saved["x"]
        self.place = self.place.at(self.x)
        # The operator at the beginning was the same, which a linear term does not change.
        apart = abs(self.place.value - saved["value"])
        self._products.refuse_unless(apart <= DIGITS * self.place.rounding, "was written for another function")
        for name in KEPT:
            setattr(self, name, saved[name])
        self._space = self._begin(None)
        self._space.go_on_from(saved)
        # Moving to the point has begun new units.
        self._products.go_on_from(saved)

    def run(self) -> None:
        """Take steps until the gradient is small enough or the search cannot go on."""
        while not self.ending:
            if self.place.slope <= self.target:
                self.ending = "converged"
            elif (step := self._next()) is not None:
                self._try(step)
            elif not self.ending:
                self.ending = "stopped" if self._products.stopped else "max_products"

    def _next(self) -> Step | None:
        """The step, or None; a point that was reached is not lost where its products are not finite."""
        try:
            return self._step()
        except NonFiniteProductError:
            if not self.nit:
                raise
            self.ending = "singular"
            return None

    def _step(self) -> Step | None:
        """The step for the radius, from a subspace that is large enough; None where no products are left for one."""
        products, space, place = self._products, self._space, self.place
        step = None
        while True:
            if space.size:
                step = minimize_model(space.matrix, place.slope, self.radius)
                forcing = min(space.forcing, QUADRATIC * (place.slope / self.last_slope) ** 2)
                # Less than what would end the search is of no use.
                enough = space.residual(step.coordinates) <= max(forcing * place.slope, 0.1 * self.target)
                if enough or space.exhausted or space.size == space.capacity:
                    return step
            if products.left < space.price or products.stopped:
                return None if products.stopped else step
            space.grow()
            if math.isinf(self.radius):
                curvature = abs(float(space.matrix[0, 0]))
                self.radius = FIRST_RADIUS * place.slope / curvature if curvature else 1.0
            products.report(f"step {self.nit + 1}, value {place.value:.6g}, gradient {place.slope:.2g}")
            products.keep(self.state)

    def _try(self, step: Step) -> None:
        """Evaluate the function at the end of a step, then take the step or make the radius smaller."""
        place, space = self.place, self.place.space
        s = self._space.vector(step.coordinates)
        # As the function sees it: leaves may be of less precision than flat vectors.
        x = place.agreed(space.flatten(space.unflatten(self.x + s.squeeze(-1))))
        if self._is_here(x) or step.decrease <= 0:
            self.ending = self._without_a_step()
            return
        there = place.at(x)
        self.nfev += 1
        self._products.count += place.gradient_price
        ratio, unclear = self._ratio(there, step, s)
        self.growths = self.growths + 1 if ratio > GOOD and step.on_boundary else 0
        self.at_edge = not there.is_finite or (self.at_edge and step.on_boundary and not self.growths)
        if ratio < POOR:
            self.radius = self._shrunk(there, step)
        elif self.growths:
            # Where the function falls for ever, that reaches the end of its precision in some fifty steps.
            self.radius = min(step.length * 2.0 ** max(1, self.growths - STEADY), torch.finfo(torch.float64).max)
        if ratio > ACCEPTED:
            self.nit, self.failures = self.nit + 1, 0
            self.x, self.place, self.last_slope = x, there, place.slope
            self._space = self._begin(self._space)
        elif unclear:
            self.failures += 1
            if self.failures == FAILURES:
                self.ending = self._without_a_step()

    def _is_here(self, x: Tensor) -> bool:
        """Whether a point is the current one, on all ranks."""
        differ = (x != self.x).any().to(x.dtype).reshape(1)
        return not float(self.place.operator.total(differ, "max"))

    def _without_a_step(self) -> str:
        """Why no step is better: the values have no more digits, or end, where their precision does or before."""
        limits = torch.finfo(self.x.dtype)
        far = (self.x.abs() > 0.1 * limits.max).any().to(self.x.dtype).reshape(1)
        falls_on = self.place.value < 0.5 * self.place.info.min or float(self.place.operator.total(far, "max"))
        return "unbounded" if falls_on else "edge" if self.at_edge else "precision"

    def _ratio(self, there: Place, step: Step, s: Tensor) -> tuple[float, bool]:
        """How far the function falls, in units of what the model predicts; and whether values have no digits for it."""
        here = self.place
        if not there.is_finite:
            return -math.inf, False
        rounding = max(here.rounding, there.rounding)
        fall = here.value - there.value
        if step.decrease > DIGITS * rounding:
            return fall / step.decrease, False
        if fall < -rounding or there.slope >= here.slope:
            return -math.inf, True
        # Gradients have digits where the difference of values has none; the trapezoidal rule is exact for quadratics.
        slopes = float(blocks.dots(here.operator, here.gradient + there.gradient, s))
        return -0.5 * slopes / step.decrease, True

    def _shrunk(self, there: Place, step: Step) -> float:
        """A smaller radius: to the minimum of the parabola through both values, within limits."""
        along = self.place.slope * float(step.coordinates[0])
        bend = there.value - self.place.value - along
        part = -along / (2 * bend) if math.isfinite(bend) and bend > 0 else 0.0
        return min(max(part, 0.1), 0.5) * step.length
