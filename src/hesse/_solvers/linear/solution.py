"""``Solution``: what a solve knows at its end."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from hesse._base import tables
from hesse._solvers import columns as blocks
from hesse._solvers.noise import SEED, said
from hesse._solvers.run import Products

# A curvature that small, in units of eps·‖A‖, is zero as far as rounding can tell.
ROUNDING = 8
SOLVED = ("converged", "noise")
REMEDIES = {
    "max_products": ("products ran out", "Raise max_products or tol, or give a preconditioner."),
    "precision": ("rounding allows no smaller one", "Raise tol, use float64, or add a shift."),
    "negative_curvature": (
        "conjugate gradients met a direction of negative curvature",
        "Use method='minres', or add a shift that makes the operator positive definite.",
    ),
    "singular": ("conjugate gradients met a direction without curvature", "Use method='minres', or add a shift."),
    "least_squares": (
        "as far as its precision tells, the operator is singular and the right-hand side is not in its range",
        "The solution minimizes the residual; add a shift for an equation that has one.",
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """The solution of A·x = b, and how good it is.

    Attributes:
        solution: x, in the structure that b has.
        residual_norms: ‖b − A·x‖ for each right-hand side, (k,), float64 on the CPU, from true products.
        endings: why each stopped: ``"converged"``, ``"max_products"``, ``"stopped"`` by the callback, ``"precision"``
            where rounding allows no smaller residual, ``"noise"`` where the products' noise does not (twice that of a
            product with x), ``"least_squares"`` where the residual r has ‖A·r‖ ≤ eps^⅓·‖A‖·‖r‖ and rᵀA·r within
            ±128·eps·‖A‖·‖r‖², and another run from there gains nothing: a singular system has no solution and x
            minimizes the residual, or eigenvalues along r are zero as far as rounding can tell;
            ``"negative_curvature"`` or ``"singular"`` where conjugate gradients could not go on.
        converged: whether every residual is at most max(tol·‖b‖, atol), or noise.
        negative_curvature: a direction d of norm one with dᵀAd < 0 that was met, in the structure of one right-hand
            side, or None.
        curvature: dᵀAd by a true product, or None.
        num_iterations: steps for each right-hand side, (k,).
        num_products: products made, those for true residuals among them.
        method: ``"cg"`` or ``"minres"``.
        noise: to which part of themselves the products are linear, where that is measured and more than the rounding of
            the vectors' dtype, as where the model computes in bfloat16; else None.
    """

    solution: Any
    residual_norms: Tensor
    endings: tuple[str, ...]
    converged: bool
    negative_curvature: Any | None
    curvature: float | None
    num_iterations: Tensor
    num_products: int
    method: str
    noise: float | None = None

    def __repr__(self) -> str:
        columns = self.residual_norms.tolist(), self.num_iterations.tolist(), self.endings
        rows = [[f"{norm:.2e}", str(steps), ending] for norm, steps, ending in zip(*columns, strict=True)]
        table = tables.table([f"residual by {self.method}", "steps", "ending"], rows)
        return described(table, self.num_products, self.converged, self.curvature, self.noise)


def described(table: str, num_products: int, converged: bool, curvature: float | None, noise: float | None) -> str:
    """A table of residuals, and what is known beside it."""
    facts = [("products", str(num_products)), *said(noise), ("converged", tables.yes(converged))]
    if curvature is not None:
        facts.append(("negative curvature", f"{curvature:.3g}"))
    return f"{table}\n\n{tables.labelled(facts)}"


def warn_of(products: Products, endings: list[str], norms: Tensor) -> None:
    """The one warning of a solve whose residuals are not all small enough."""
    failed = [column for column, ending in enumerate(endings) if ending not in SOLVED]
    if failed:
        worst = max(failed, key=lambda column: float(norms[column]))
        reason, remedy = REMEDIES.get(endings[worst], ("", ""))
        if products.operator.dtype == torch.float64:
            remedy = remedy.replace(" use float64,", "")
        products.warn(
            f"{len(failed)} of {len(endings)} residuals are too large, up to {float(norms[worst]):.3g}: {reason}",
            remedy,
        )


def certified(products: Products, direction: Tensor | None, scale: float = 0.0) -> tuple[Tensor | None, float | None]:
    """A direction of norm one and its curvature by a true product; none where that is not negative beyond rounding.

    Args:
        products: the question's products.
        direction: the direction, or None.
        scale: a norm of the operator that is known, in the question's units.
    """
    if direction is None or not products.left:
        return None, None
    direction, _ = blocks.unit(products.operator, direction)
    image = products.multiply(direction)
    curvature = float(products.operator.gram(direction, image))
    if products.left:
        # Products along the null space alone do not tell the norm.
        probe, _ = blocks.unit(products.operator, products.operator.signs(1, SEED))
        scale = max(scale, float(blocks.norms(products.operator, products.multiply(probe))))
    rounding = ROUNDING * torch.finfo(direction.dtype).eps * max(scale, float(blocks.norms(products.operator, image)))
    return (direction, products.grow(curvature)) if curvature < -rounding else (None, None)
