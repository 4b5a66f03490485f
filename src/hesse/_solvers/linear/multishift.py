"""Conjugate gradients for A + σ·I at many shifts σ at once, at the price of the smallest one."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.linear.conjugate_gradients import ROUNDING
from hesse._solvers.run import Products

KEPT = ("X", "steps", "_r", "_p", "_P", "_square", "_zeta", "_zeta_before", "_alpha_before", "_beta", "_running")


class Multishift:
    r"""Solutions of :math:`(A + \sigma I) x_\sigma = b` from one Krylov space, which the shifts share.

    The residuals of all shifts are parallel, :math:`r^\sigma = \zeta^\sigma r`, to that of the smallest. With δ the
    distance to it,

    .. math:: \zeta_+ = \frac{\zeta \zeta_- \alpha_-}{\zeta_- \alpha_- (1 + \alpha \delta) + \alpha \beta
        (\zeta_- - \zeta)}, \quad \alpha^\sigma = \alpha \frac{\zeta_+}{\zeta}, \quad
        \beta_+^\sigma = \beta_+ \Bigl(\frac{\zeta_+}{\zeta}\Bigr)^2,

    and each x moves along its own direction.

    Args:
        products: with A.
        b: (n, 1), of a norm near one, whose memory may be used.
        shifts: (m,).
        target: the norm at which residuals are small enough.
        X: zeros (n, m), where the solutions are made in place.

    Attributes:
        X: solutions, (n, m), in the units of the products.
        steps: of each, (m,).
        direction: (n, 1), of negative curvature of A plus the smallest shift, where one stopped it.

    Source: Jegerlehner, "Krylov space solvers for shifted linear systems", arXiv:hep-lat/9612014 (1996); Frommer and
    Maass, "Fast CG-based methods for Tikhonov–Phillips regularization", SIAM J. Sci. Comput. 20 (1999) 1831–1850.
    """

    def __init__(self, products: Products, b: Tensor, shifts: Tensor, target: float, X: Tensor) -> None:
        self._products, self._operator, self._shifts = products, products.operator, shifts
        self._eps = torch.finfo(products.operator.dtype).eps
        self.direction: Tensor | None = None
        self.steps = torch.zeros(len(shifts), dtype=torch.int64, device="cpu")
        self.X, self._r, self._p = X, b, b.clone()
        # The direction of each shift.
        self._P = b.repeat(1, len(shifts))
        self._square = float(blocks.dots(self._operator, b, b))
        self._zeta = self._zeta_before = torch.ones_like(shifts)
        self._alpha_before, self._beta = 1.0, 0.0
        # By its own residual no method knows more than rounding of the first one.
        self._target = max(target, self._eps * self._square**0.5)
        self._running = self._zeta * self._square**0.5 > self._target

    def run(self, reserve: int) -> None:
        """Go on until every shift is solved, or only so many products are left."""
        while bool(self._running.any()) and self._products.left > reserve and self._step():
            done = int((~self._running).sum())
            self._products.report(f"{done} of {len(self.steps)} shifts done, residual {self._square**0.5:.2g}")
            self._products.keep(self.state)

    def state(self) -> State:
        """All that the next step depends on."""
        return {f"shared.{name}": getattr(self, name) for name in KEPT}

    def load(self, saved: State) -> None:
        """Go on from what ``state`` gave."""
        for name in KEPT:
            setattr(self, name, saved[f"shared.{name}"])

    def _step(self) -> bool:
        """One product; whether there was curvature to go along."""
        dots, operator = blocks.dots, self._operator
        p, zeta, zeta_before, running = self._p, self._zeta, self._zeta_before, self._running
        image = self._products.multiply(p)
        shifts = blocks.ldexp(self._shifts, -self._products.exponent)
        base = float(shifts.min())
        image = image.add(p, alpha=base)
        curvature = float(dots(operator, p, image))
        rounding = ROUNDING * self._eps * float(blocks.norms(operator, p) * blocks.norms(operator, image))
        if curvature <= rounding:
            self.direction = p.clone() if curvature < -rounding else None
            return False
        alpha = self._square / curvature
        mixed = zeta_before * self._alpha_before * (1 + alpha * (shifts - base)) + alpha * self._beta * (
            zeta_before - zeta
        )
        zeta_next = zeta * zeta_before * self._alpha_before / mixed
        ratio = torch.where(running, zeta_next / zeta, 0)
        blocks.add(self.X, self._P, alpha * ratio)
        self.steps = self.steps + running
        self._r.sub_(image, alpha=alpha)
        del image
        self._square, before = float(dots(operator, self._r, self._r)), self._square
        self._alpha_before, self._beta = alpha, self._square / before
        p.mul_(self._beta).add_(self._r)
        blocks.shrink(self._P, self._beta * ratio**2)
        blocks.add(self._P, self._r.expand(-1, len(zeta)), torch.where(running, zeta_next, 0))
        self._zeta_before, self._zeta = torch.where(running, zeta, 1), torch.where(running, zeta_next, 1)
        self._running = running & (self._zeta * self._square**0.5 > self._target)
        return True
