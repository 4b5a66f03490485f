"""Conjugate gradients, for positive definite operators and for consistent positive semidefinite systems."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.linear.krylov import Krylov, Preconditioner

# A curvature that small, in units of eps·‖p‖·‖A·p‖, is zero as far as rounding can tell.
ROUNDING = 8


class ConjugateGradients(Krylov):
    r"""Preconditioned conjugate gradients.

    .. math:: \alpha = \frac{r^\top z}{p^\top A p}, \quad x \mathrel{+}= \alpha p, \quad r \mathrel{-}= \alpha A p,
        \quad z = M r, \quad p = z + \frac{r^\top z}{r_-^\top z_-}\, p_-

    A curvature :math:`p^\top A p \le 0` stops the column: the iterate before it is its answer.

    Source: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", J. Res. Natl. Bur. Stand.
    49 (1952) 409–436; Steihaug, SIAM J. Numer. Anal. 20 (1983) 626–637, for the curvature.
    """

    STATE = ("_p", "_rho", "r")
    # x, r, p and a direction of negative curvature.
    LEAST = MOST = 4
    # What falls from step to step is the energy ½·xᵀAx − bᵀx, the error in A's norm while no curvature is negative.
    KEEPS = ("",)

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
        self.r = B
        z, self._rho = self.precondition(B)
        # A preconditioner may hand out what it was given, or what it keeps.
        self._p = z.clone()

    @property
    def vectors(self) -> Tensor:
        """The search directions p."""
        return self._p

    def advance(self, images: Tensor) -> list[tuple[str, Tensor]]:
        """One step."""
        dots, operator, p = blocks.dots, self.operator, self._p
        curvature = dots(operator, p, images)
        lengths, sizes = blocks.norms(operator, p), blocks.norms(operator, images)
        rounding = ROUNDING * self.eps * lengths
        self.scale = max([self.scale, *(sizes / lengths).nan_to_num(0.0).tolist()])
        # A product's own rounding, of a direction that A takes to almost nothing, is no negative curvature.
        negative, flat = curvature < -rounding * self.scale * lengths, curvature <= rounding * sizes
        if bool(negative.any()):
            self.notice(blocks.select(p, negative.nonzero()[:1, 0]))
        alpha = torch.where(flat, 0, self._rho / torch.where(flat, 1, curvature))
        blocks.add(self.x, p, alpha)
        blocks.add(self.r, images, -alpha)
        z, rho = self.precondition(self.r)
        blocks.shrink(p, rho / self._rho)
        p.add_(z)
        self._rho = rho
        self.norms = blocks.norms(operator, self.r)
        return [("negative_curvature", negative), ("singular", flat), ("solved", self.norms <= self.targets)]
