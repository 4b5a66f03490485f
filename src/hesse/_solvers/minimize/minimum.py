"""``Minimum``: what a minimization knows at its end."""

from __future__ import annotations

import dataclasses
from typing import Any

from hesse._base import tables

MESSAGES = {
    "converged": "The norm of the gradient is small enough.",
    "max_products": "All products that may be made were made.",
    "stopped": "The callback stopped the search.",
    "precision": "No step improves on rounding.",
    "singular": "Products are not finite at the point that was reached.",
    "edge": "The function is not finite just beyond the point that was reached.",
    "unbounded": "The value falls below the range of its precision: the function is unbounded below.",
}
# Of the endings that are warned of: why, and what to do.
REMEDIES = {
    "max_products": ("products ran out", "Raise max_products, tol or atol."),
    "precision": (
        "values near {value:.3g} are known to {rounding:.1g} only, which allows no better step",
        "Raise tol or atol, take a constant out of the function, or use float64.",
    ),
    "singular": (
        "the value fell from {first:.3g} to {value:.3g}, where products leave the range of its precision",
        "The function is singular or unbounded below there: keep its variables away from that point.",
    ),
    "edge": (
        "the value fell from {first:.3g} to {value:.3g}, and just beyond, value or gradient are not finite",
        "The function falls towards the end of its domain, or overflows there: keep its variables away from it.",
    ),
    "unbounded": (
        "the value fell from {first:.3g} to {value:.3g}, where its precision ends",
        "Give a function that has a minimum: a term such as weight decay keeps it from falling for ever.",
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Minimum:
    """The point where a minimization ended, and how good it is.

    Attributes:
        x: the point, in the structure of ``x0``.
        fun: f(x); for residuals r it is ½‖r‖².
        grad_norm: ‖∇f(x)‖.
        nit: steps that were taken.
        nfev: points at which the function was evaluated, with those of refused steps.
        num_products: products with the Hessian; for residuals those with J and those with Jᵀ, gradients among them.
        converged: whether ``grad_norm`` is at most max(tol·‖∇f(x₀)‖, atol).
        message: why it ended, in a sentence.
        method: ``"newton"``, ``"levenberg-marquardt"`` or ``"sparse-newton"``.
    """

    x: Any
    fun: float
    grad_norm: float
    nit: int
    nfev: int
    num_products: int
    converged: bool
    message: str
    method: str

    def __repr__(self) -> str:
        facts = [
            ("value", f"{self.fun:.7g}"),
            ("gradient", f"{self.grad_norm:.2e}"),
            ("steps", f"{self.nit} by {self.method}, {self.nfev} evaluations"),
            ("products", str(self.num_products)),
            ("converged", tables.yes(self.converged)),
            ("message", self.message),
        ]
        return tables.labelled(facts)
