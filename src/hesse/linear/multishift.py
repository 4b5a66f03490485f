"""Conjugate gradients for A + σ·I at many shifts σ at once, at the price of the smallest one."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse import blocks
from hesse.linear.conjugate_gradients import ROUNDING
from hesse.products import Products


def multishift(
    products: Products, b: Tensor, shifts: Tensor, target: float, reserve: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Solutions of :math:`(A + \sigma I) x_\sigma = b` from one Krylov space, which the shifts share.

    The residuals of all shifts are parallel, :math:`r^\sigma = \zeta^\sigma r`, to that of the smallest. With δ the
    distance to it,

    .. math:: \zeta_+ = \frac{\zeta \zeta_- \alpha_-}{\zeta_- \alpha_- (1 + \alpha \delta) + \alpha \beta
        (\zeta_- - \zeta)}, \quad \alpha^\sigma = \alpha \frac{\zeta_+}{\zeta}, \quad
        \beta_+^\sigma = \beta_+ \Bigl(\frac{\zeta_+}{\zeta}\Bigr)^2,

    and each x moves along its own direction.

    Args:
        products: with A; at least ``reserve`` are left over.
        b: (n, 1).
        shifts: (m,).
        target: the norm at which residuals are small enough.
        reserve: see above.

    Returns:
        solutions (n, m); steps of each, (m,); and a direction (n, 1) of negative curvature of A plus the smallest
        shift, where one stopped it.

    Source: Jegerlehner, "Krylov space solvers for shifted linear systems", arXiv:hep-lat/9612014 (1996); Frommer and
    Maass, "Fast CG-based methods for Tikhonov–Phillips regularization", SIAM J. Sci. Comput. 20 (1999) 1831–1850.
    """
    operator, dots, scale = products.operator, blocks.dots, blocks.scale
    eps = torch.finfo(operator.dtype).eps
    base = float(shifts.min())
    deltas = shifts - base
    ones = torch.ones_like(shifts)
    steps = torch.zeros(len(shifts), dtype=torch.int64)
    r = p = b
    P = b.expand(-1, len(shifts))
    X = torch.zeros_like(P.mT.contiguous()).mT
    square = float(dots(operator, r, r))
    zeta, zeta_before, alpha_before, beta = ones, ones, 1.0, 0.0
    running = (zeta * square**0.5) > target
    while bool(running.any()) and products.left > reserve:
        image = products.multiply(p) + base * p
        curvature = float(dots(operator, p, image))
        rounding = ROUNDING * eps * float((dots(operator, p, p) * dots(operator, image, image)).sqrt())
        if curvature <= rounding:
            return X, steps, p if curvature < -rounding else None
        alpha = square / curvature
        mixed = zeta_before * alpha_before * (1 + alpha * deltas) + alpha * beta * (zeta_before - zeta)
        zeta_next = zeta * zeta_before * alpha_before / mixed
        ratio = torch.where(running, zeta_next / zeta, 0)
        X = X + scale(P, alpha * ratio)
        steps += running
        r = r - alpha * image
        square, before = float(dots(operator, r, r)), square
        alpha_before, beta = alpha, square / before
        p = r + beta * p
        P = scale(r.expand(-1, len(shifts)), torch.where(running, zeta_next, 0)) + scale(P, beta * ratio**2)
        zeta_before, zeta = torch.where(running, zeta, 1), torch.where(running, zeta_next, 1)
        running = running & (zeta * square**0.5 > target)
        products.report(f"{int((~running).sum())} of {len(shifts)} shifts done, residual {square**0.5:.2g}")
    return X, steps, None
