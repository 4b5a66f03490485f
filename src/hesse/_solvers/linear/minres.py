"""MINRES, for symmetric operators, indefinite and singular ones as well."""

from __future__ import annotations

import torch
from torch import Tensor

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
        *("_z", "_z_before", "_v", "_d", "_d_before"),
        *("_beta", "_beta_before", "_c", "_s", "_delta", "_epsilon", "_phi", "_longest"),
        *("_best", "_best_x", "_best_phi", "_best_step"),
    )

    def __init__(
        self, operator: Operator, B: Tensor, targets: Tensor, preconditioner: Preconditioner | None, scale: float
    ) -> None:
        super().__init__(operator, B, targets, preconditioner, scale)
        # z are the Lanczos vectors before the preconditioner, v = M·z/β after it; without one, v = z/β.
        self._z, self._z_before = self.r, torch.zeros_like(B)
        q, squares = self.precondition(self._z)
        self._beta = squares.sqrt()
        self._v = blocks.scale(q, 1 / self._beta)
        self._d, self._d_before = torch.zeros_like(B), torch.zeros_like(B)
        zeros = torch.zeros_like(self._beta)
        self._beta_before, self._phi = torch.ones_like(zeros), self._beta
        self._c, self._s = -torch.ones_like(zeros), zeros
        self._delta = self._epsilon = self._longest = zeros
        # The iterate that is nearest to a least-squares solution: ‖A·r‖/(‖A‖·‖r‖), x, ‖r‖ and the step.
        self._best = torch.full_like(zeros, torch.inf)
        self._best_x, self._best_phi, self._best_step = self.x, zeros, zeros

    @property
    def vectors(self) -> Tensor:
        """The Lanczos vectors v."""
        return self._v

    def advance(self, images: Tensor) -> list[tuple[str, Tensor]]:
        """One step."""
        scale, v = blocks.scale, self._v
        alpha = blocks.dots(self.operator, v, images)
        z = images - scale(self._z, alpha / self._beta) - scale(self._z_before, self._beta / self._beta_before)
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
        if self.direction is None and bool(negative.any()):
            self.notice(self.precondition(blocks.select(self.r, negative.nonzero()[:1, 0]))[0])

        pivot = torch.hypot(gamma, beta)
        divisor = torch.where(pivot <= rounding, 1, pivot)
        c, s = gamma / divisor, beta / divisor
        d = scale(v - scale(self._d, delta) - scale(self._d_before, self._epsilon), 1 / divisor)
        # A step so long leaves more rounding than residual; where it was made before A's norm was known, all is void.
        void = rounding * self._longest > 1
        length = c.abs() * blocks.norms(self.operator, d)
        flat = (pivot <= rounding) | (rounding * length > 1)
        halted = least_squares | flat
        self._longest = torch.maximum(self._longest, length)
        tau = torch.where(halted, 0, c * self._phi)
        phi = torch.where(halted, self._phi, s * self._phi)
        self.x = self.x + scale(d, tau)
        exhausted = beta <= rounding
        safe = torch.where(beta > 0, beta, 1)
        change = scale(z, torch.where(halted | exhausted, 0, phi * c / safe))
        self.r = scale(self.r, torch.where(halted, 1, s**2)) - change

        self._z_before, self._z, self._v = self._z, z, scale(q, 1 / safe)
        self._d_before, self._d = self._d, d
        self._beta_before, self._beta = self._beta, safe
        self._c, self._s, self._delta, self._epsilon, self._phi = c, s, delta_next, epsilon, phi
        solved = blocks.norms(self.operator, self.r) <= self.targets
        least_squares |= flat & torch.isfinite(self._best)
        self.x = torch.where(least_squares.to(v.device), self._best_x, self.x)
        self.x = torch.where(void.to(v.device), 0, self.x)
        return [("void", void), ("least_squares", least_squares), ("solved", flat | solved | exhausted)]

    def _is_least_squares(self, ratio: Tensor) -> Tensor:
        """Which columns have had their least-squares solution, ``_best_x``; ratio: ‖A·r‖/(‖A‖·‖r‖) of present ones."""
        steps = self.iterations[self.columns].cpu().double()
        self._best = torch.where(self._phi < FALLS * self._best_phi, torch.inf, self._best)
        better = (ratio < self.eps**LEAST_SQUARES) & (ratio < 0.5 * self._best)
        if bool(better.any()):
            self._best_x = torch.where(better.to(self.x.device), self.x, self._best_x)
            self._best = torch.where(better, ratio, self._best)
            self._best_phi = torch.where(better, self._phi, self._best_phi)
            self._best_step = torch.where(better, steps, self._best_step)
        late = steps - self._best_step > PATIENCE + steps / 4
        return torch.isfinite(self._best) & ((ratio > RISES * self._best) | late | (ratio <= ROUNDING * self.eps))
