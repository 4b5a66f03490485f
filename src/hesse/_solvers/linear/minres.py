"""MINRES, for symmetric operators, indefinite and singular ones as well."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base import pages
from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.linear.krylov import Krylov, Preconditioner

# What is that small, in units of eps·‖A‖, is zero as far as rounding can tell.
ROUNDING = 8
# Without reorthogonalization ‖A·r‖ falls to about √eps·‖A‖·‖r‖ on a system without solution, and rises after that. So
# below eps to this power an iterate may be the least-squares solution. It is, unless the residual falls after all: then
# it was an eigenvector of a small eigenvalue.
LEAST_SQUARES = 0.4
FALLS = 0.9
RISES = 30
# Steps without a better one, beside a quarter of all steps.
PATIENCE = 20


class Minres(Krylov):
    r"""The minimum-residual method: Lanczos, and a QR factorization of its tridiagonal matrix by reflections.

    With :math:`\beta_{k+1} v_{k+1} = A v_k - \alpha_k v_k - \beta_k v_{k-1}` and reflections (c, s), step k has

    .. math:: \gamma = s_- \delta - c_- \alpha, \quad \delta_+ = -c_- \beta_+, \quad
        \|A r_-\| = \|r_-\| \sqrt{\gamma^2 + \delta_+^2}, \quad r_-^\top A r_- = -c_- \gamma \|r_-\|^2,

    so that least-squares solutions and negative curvature along residuals are seen for free. From x = 0 the iterates of
    a consistent singular system lie in the range, and their limit is the solution of minimum length.

    Source: Paige and Saunders, "Solution of sparse indefinite systems of linear equations", SIAM J. Numer. Anal. 12
    (1975) 617–629; Choi, Paige and Saunders, "MINRES-QLP: a Krylov subspace method for indefinite or singular symmetric
    systems", SIAM J. Sci. Comput. 33 (2011) 1810–1836; Liu and Roosta, "MINRES: from negative curvature detection to
    monotonicity properties", SIAM J. Optim. 32 (2022) 2636–2661.
    """

    STATE = (
        *("r", "_z", "_z_before", "_v", "_d", "_d_before"),
        *("_beta", "_c", "_s", "_delta", "_epsilon", "_phi", "_longest"),
        *("_best", "_best_x", "_best_phi", "_best_step"),
    )
    # x, two of z, two of d and the best x; with the residual and a direction of negative curvature.
    LEAST, MOST = 6, 8

    def __init__(
        self,
        operator: Operator,
        B: Tensor,
        targets: Tensor,
        preconditioner: Preconditioner | None,
        scale: float,
        room: int,
    ) -> None:
        super().__init__(operator, B, targets, preconditioner, scale, room)
        # Residuals give directions of negative curvature; without room for them the recurrence knows their norms.
        self.r = B.clone() if room >= self.MOST else None
        q, squares = self.precondition(B)
        self._beta = squares.sqrt()
        # z are the Lanczos vectors before the preconditioner, v = M·z after it; without one they are the same.
        self._v = None if preconditioner is None else blocks.scale(q, 1 / self._beta)
        self._z, self._z_before = B, torch.zeros_like(B)
        blocks.shrink(self._z, 1 / self._beta)
        self._d, self._d_before = torch.zeros_like(B), torch.zeros_like(B)
        zeros = torch.zeros_like(self._beta)
        self._phi = self._beta
        self._c, self._s = -torch.ones_like(zeros), zeros
        self._delta = self._epsilon = self._longest = zeros
        # The iterate that is nearest to a least-squares solution: ‖A·r‖/(‖A‖·‖r‖), x, ‖r‖ and the step.
        self._best = torch.full_like(zeros, torch.inf)
        self._best_phi = self._best_step = zeros
        self._best_x: Tensor | None = None

    @property
    def vectors(self) -> Tensor:
        """The Lanczos vectors v."""
        return self._z if self._v is None else self._v

    def advance(self, images: Tensor) -> list[tuple[str, Tensor]]:
        """One step."""
        v, z = self.vectors, self._z_before
        alpha = blocks.dots(self.operator, v, images)
        blocks.shrink(z, -self._beta)
        z.add_(images)
        blocks.add(z, self._z, -alpha)
        q, squares = self.precondition(z)
        beta = squares.sqrt()
        # The column of the tridiagonal matrix; the first one has no entry above its diagonal.
        above = torch.where(self.iterations[self.columns] > 1, self._beta, 0)
        self.scale = max(self.scale, float((above**2 + alpha**2 + beta**2).sqrt().max()))
        rounding = ROUNDING * self.eps * self.scale

        delta = self._c * self._delta + self._s * alpha
        gamma = self._s * self._delta - self._c * alpha
        epsilon, delta_next = self._s * beta, -self._c * beta
        ratio = torch.hypot(gamma, delta_next) / (self.scale or 1.0)
        least_squares = self._is_least_squares(ratio)
        negative = self._c * gamma > rounding
        if self.r is not None and self.direction is None and bool(negative.any()):
            self.notice(self.precondition(blocks.select(self.r, negative.nonzero()[:1, 0]))[0])

        pivot = torch.hypot(gamma, beta)
        divisor = torch.where(pivot <= rounding, 1, pivot)
        c, s = gamma / divisor, beta / divisor
        d = self._d_before
        blocks.shrink(d, -self._epsilon)
        blocks.add(d, self._d, -delta)
        d.add_(v)
        blocks.shrink(d, 1 / divisor)
        # A step so long leaves more rounding than residual; where it was made before A's norm was known, all is void.
        void = rounding * self._longest > 1
        length = c.abs() * blocks.norms(self.operator, d)
        # The last step of a space may divide rounding by rounding: it must gain more than its length leaves.
        exhausted = beta <= rounding
        flat = (pivot <= rounding) | (rounding * length > torch.where(exhausted, 1 - s.abs(), 1))
        halted = least_squares | flat
        self._longest = torch.maximum(self._longest, length)
        tau = torch.where(halted, 0, c * self._phi)
        phi = torch.where(halted, self._phi, s * self._phi)
        blocks.add(self.x, d, tau)
        safe = torch.where(exhausted, 1, beta)
        if self._v is not None:
            self._v.copy_(q)
            blocks.shrink(self._v, 1 / safe)
        blocks.shrink(z, 1 / safe)
        self.norms = phi.abs()
        if self.r is not None:
            blocks.shrink(self.r, torch.where(halted, 1, s**2))
            blocks.add(self.r, z, -torch.where(halted | exhausted, 0, phi * c))
            self.norms = blocks.norms(self.operator, self.r)

        self._z_before, self._z, self._d_before, self._d = self._z, z, self._d, d
        self._beta = safe
        self._c, self._s, self._delta, self._epsilon, self._phi = c, s, delta_next, epsilon, phi
        least_squares |= flat & torch.isfinite(self._best)
        blocks.overwrite(self.x, self._best_x, least_squares)
        blocks.overwrite(self.x, None, void)
        solved = self.norms <= self.targets
        return [("void", void), ("least_squares", least_squares), ("solved", flat | solved | exhausted)]

    def _is_least_squares(self, ratio: Tensor) -> Tensor:
        """Which columns have had their least-squares solution, ``_best_x``; ratio: ‖A·r‖/(‖A‖·‖r‖) of present ones."""
        steps = self.iterations[self.columns].cpu().double()
        self._best = torch.where(self._phi < FALLS * self._best_phi, torch.inf, self._best)
        better = (ratio < self.eps**LEAST_SQUARES) & (ratio < 0.5 * self._best)
        if bool(better.any()):
            if self._best_x is None:
                with pages.apart():
                    self._best_x = torch.zeros_like(self.x)
            blocks.overwrite(self._best_x, self.x, better)
            self._best = torch.where(better, ratio, self._best)
            self._best_phi = torch.where(better, self._phi, self._best_phi)
            self._best_step = torch.where(better, steps, self._best_step)
        late = steps - self._best_step > PATIENCE + steps / 4
        # Beside a null space ‖A·r‖ rises on the way to small eigenvalues as well: a run that confirms goes on.
        rises = torch.zeros_like(late) if self.confirms else ratio > RISES * self._best
        return torch.isfinite(self._best) & (rises | late | (ratio <= ROUNDING * self.eps))
