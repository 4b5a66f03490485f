"""``solve_shifted``: the path of solutions of a system that is damped by many shifts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesse._base import checks, tables
from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import Checkpoint, State, fingerprint, is_same
from hesse._solvers.linear import corrections
from hesse._solvers.linear.conjugate_gradients import ConjugateGradients
from hesse._solvers.linear.multishift import Multishift
from hesse._solvers.linear.right_hand_sides import RightHandSides
from hesse._solvers.linear.solution import SOLVED, certified, described, warn_of
from hesse._solvers.run import Callback as Watch
from hesse._solvers.run import Products

# Beside two vectors for each shift: b, the residual, the direction and its product.
TOGETHER = 4
KEPT = ("X", "norms", "endings", "steps", "direction", "noise")


@dataclasses.dataclass(frozen=True, eq=False)
class ShiftedSolutions:
    """The solutions of (A + σ·I)·x = b for many σ, and how good they are.

    Attributes:
        shifts: σ, as they were given.
        solutions: x for each, in the structure that b has.
        residual_norms: ‖b − (A + σ·I)·x‖ for each, (m,), float64 on the CPU, from true products.
        endings: why each stopped, as in ``Solution``.
        converged: whether every residual is at most max(tol·‖b‖, atol), or noise.
        negative_curvature: a direction d of norm one with dᵀAd < 0 that was met, in the structure of b, or None.
        curvature: dᵀAd by a true product, or None.
        num_iterations: steps for each, (m,); with no preconditioner they have their products in common.
        num_products: products made with A, those for true residuals among them.
        noise: to which part of themselves the products are linear, as in ``Solution``.
    """

    shifts: tuple[float, ...]
    solutions: tuple[Any, ...]
    residual_norms: Tensor
    endings: tuple[str, ...]
    converged: bool
    negative_curvature: Any | None
    curvature: float | None
    num_iterations: Tensor
    num_products: int
    noise: float | None = None

    def __repr__(self) -> str:
        columns = self.shifts, self.residual_norms.tolist(), self.num_iterations.tolist(), self.endings
        rows = [
            [f"{shift:.6g}", f"{norm:.2e}", str(steps), why] for shift, norm, steps, why in zip(*columns, strict=True)
        ]
        table = tables.table(["shift", "residual", "steps", "ending"], rows)
        return described(table, self.num_products, self.converged, self.curvature, self.noise)


def solve_shifted(
    A: Any,
    b: Any,
    shifts: Sequence[float],
    *,
    tol: float = 1e-6,
    atol: float = 0.0,
    max_products: int | None = None,
    preconditioner: Callable[[float], Operator] | None = None,
    memory: int | str | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Watch | None = None,
    progress: bool = False,
) -> ShiftedSolutions:
    r"""The solutions of :math:`(A + \sigma I) x = b` for many damping shifts σ, by conjugate gradients.

    Without a preconditioner all shifts are solved from one Krylov space, by the products that the smallest takes. With
    one they are solved one by one, from the largest down, each from the solution before it.

    Args:
        A: a symmetric operator of shape (n, n), or what ``hesse.as_operator`` takes for one; A + σ·I should be positive
            definite.
        b: one vector, structured like the inputs of a Hessian or flat (n,).
        shifts: σ, at least one.
        tol: residual norm relative to that of b.
        atol: residual norm.
        max_products: how many products may be made in all; ten times n if not given, but from 100 to 10,000, and 3 more
            for each shift.
        preconditioner: gives for each σ an operator about the inverse of A + σ·I, symmetric and positive definite; the
            same one each time, if there is a checkpoint.
        memory: what the vectors may take, b and the solutions among them, beside what a product takes: bytes, or a size
            such as ``"2GiB"``, at least that of seven vectors beside the solutions (nine with a preconditioner); a
            quarter of the device's memory where it is not given. One Krylov space takes two vectors for each shift and
            four more; where they do not fit, shifts are solved one by one.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, it goes on from that.
        callback: given a ``hesse.Progress`` as it goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``ShiftedSolutions``, with true residuals. Where not all are small enough, ``converged`` is false, and one
        ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square or not symmetric, b does not fit, or a number is out of range.
        NonFiniteProductError: a product holds infinities or NaNs.
        MemoryBudgetError: ``memory`` allows fewer vectors than it needs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: ``hesse._solvers.linear.multishift``.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.tensor([1.0, 2.0]))
        >>> path = hesse.solve_shifted(H, torch.tensor([2.0, 5.0]), [1.0, 0.0])
        >>> path.num_iterations, path.solutions[1]
        (tensor([2, 2]), tensor([2.0000, 1.2500]))
    """
    checks.numbers("solve_shifted", tol=tol, atol=atol)
    checks.wholes("solve_shifted", 1, optional=True, max_products=max_products)
    checks.functions("solve_shifted", optional=True, preconditioner=preconditioner)
    sigmas = torch.tensor(checks.listed("solve_shifted", "shifts", shifts), dtype=torch.float64, device="cpu")
    if not len(sigmas) or not bool(torch.isfinite(sigmas).all()):
        raise ValueError(f"shifts given to solve_shifted should be finite numbers, at least one, but are {shifts!r}.")
    with Products(
        A, "solve_shifted", max_products=max_products or 1, callback=callback, progress=progress, memory=memory
    ) as products:
        products.require_symmetric()
        sides = RightHandSides("solve_shifted", products.operator, "b", b)
        B = sides.columns.detach()
        if B.shape[1] != 1:
            raise ValueError(f"solve_shifted takes one right-hand side but b has {B.shape[1]} columns.")
        if max_products is None:
            products.max_products = min(max(10 * products.size, 100), 10_000) + 3 * len(sigmas)
        elif max_products < 2 * len(sigmas):
            raise ValueError(
                f"max_products given to solve_shifted should be at least {2 * len(sigmas)}, two for each shift, but is"
                f" {max_products}."
            )
        saved = products.resume(
            checkpoint, b=B, shifts=sigmas.tolist(), tol=tol, atol=atol, preconditioned=preconditioner is not None
        )
        one = ConjugateGradients.LEAST + 3 + 2 * (preconditioner is not None)
        path = _Path(products, B, sigmas, tol, atol, products.plan(len(sigmas) + one, 2 * len(sigmas) + TOGETHER + one))
        if saved is not None and "path.X" in saved:
            path.load(saved)
        elif preconditioner is None and path.fits_together:
            path.together(saved)
            saved = None
        path.one_by_one(preconditioner, saved)
        direction, curvature = certified(products, path.direction)
        warn_of(products, path.endings, path.norms)
    return ShiftedSolutions(
        shifts=tuple(sigmas.tolist()),
        solutions=tuple([sides.restore_one(x) for x in blocks.pieces(path.X)]),
        residual_norms=path.norms,
        endings=tuple(path.endings),
        converged=all(ending in SOLVED for ending in path.endings),
        negative_curvature=None if direction is None else sides.restore_one(direction),
        curvature=curvature,
        num_iterations=path.steps,
        num_products=products.count,
        noise=path.noise,
    )


class _Path:
    """The solutions for all shifts, as far as they have come."""

    def __init__(self, products: Products, B: Tensor, shifts: Tensor, tol: float, atol: float, planned: int) -> None:
        self.fits_together = planned >= 2 * len(shifts) + TOGETHER
        # What is left beside the solutions.
        self._room = planned - len(shifts)
        self._products, self._B, self._shifts, self._tol, self._atol = products, B, shifts, tol, atol
        self.X = torch.zeros(len(shifts), len(B), dtype=B.dtype, device=B.device).mT
        length = self._length = float(blocks.norms(products.operator, B))
        self._target = max(tol * length, atol)
        self.norms = torch.full((len(shifts),), length, dtype=torch.float64, device="cpu")
        self.endings = ["converged" if length <= self._target else ""] * len(shifts)
        self.steps = torch.zeros(len(shifts), dtype=torch.int64, device="cpu")
        self.direction: Tensor | None = None
        self.noise: float | None = None

    def state(self) -> State:
        """All that does not belong to the shift under way."""
        return {f"path.{name}": getattr(self, name) for name in KEPT if getattr(self, name) is not None}

    def load(self, saved: State) -> None:
        """Go on from what ``state`` gave."""
        for name in KEPT:
            setattr(self, name, saved.get(f"path.{name}"))

    def together(self, saved: State | None) -> None:
        """From one Krylov space, and one true residual each."""
        products = self._products
        if all(self.endings):
            return
        unit = blocks.exponents(blocks.norms(products.operator, self._B))
        B, target = (
            blocks.ldexp(part, -unit)
            for part in (self._B, torch.tensor([self._target], dtype=torch.float64, device="cpu"))
        )
        # Where they are in units already, they are the caller's.
        B = B.clone() if B is self._B else B
        shared = Multishift(products, B, self._shifts, float(target), self.X)
        del B
        if saved is not None:
            shared.load(saved)
        shared.run(reserve=len(self._shifts))
        self.steps, self.direction = shared.steps, shared.direction
        self.X = shared.X
        del shared
        self.X = blocks.ldexp(self.X, unit - products.exponent)
        for places in torch.split(torch.arange(len(self._shifts), device="cpu"), max(1, (self._room - 1) // 3)):
            X = blocks.ldexp(blocks.select(self.X, places), products.exponent - unit)
            images, damping = products.multiply(X), blocks.ldexp(self._shifts[places], -products.exponent)
            sizes = [blocks.norms(products.operator, part) for part in (images, X)]
            R = blocks.ldexp(self._B, -unit) - images
            blocks.add(R, X, -damping)
            norms = blocks.ldexp(blocks.norms(products.operator, R), unit)
            rounding = torch.finfo(X.dtype).eps * blocks.ldexp(sizes[0] + damping.abs() * sizes[1], unit)
            # Near an eigenvalue x grows without bounds, and its residual with it, which rounding may hide.
            void = torch.maximum(norms, rounding) > self._length
            self.X[:, places[void]] = 0
            self.norms[places] = torch.where(void, self._length, norms)
        self.endings = ["converged" if norm <= self._target else "" for norm in self.norms]

    def one_by_one(self, preconditioner: Callable[[float], Operator] | None, saved: State | None) -> None:
        """Every shift that is not solved, from the largest down; each from its own or else the last solution."""
        last: Tensor | None = None
        for place in self._shifts.argsort(descending=True).tolist():
            shift, x = float(self._shifts[place]), self.X[:, place : place + 1]
            if not self.endings[place]:
                is_known = preconditioner is None and self.fits_together
                x.copy_(self._one(place, shift, x if is_known else last, preconditioner, saved))
                saved = None
            last = x

    def _one(
        self,
        place: int,
        shift: float,
        start: Tensor | None,
        preconditioner: Callable[[float], Operator] | None,
        saved: State | None,
    ) -> Tensor:
        products = self._products
        if products.left < 3 and saved is None:
            self.endings[place] = "stopped" if products.stopped else "max_products"
            return self.X[:, place : place + 1]
        inverse = None if preconditioner is None else preconditioner(shift)
        # Made here, since it may take all ranks: one of them writes.
        mark = fingerprint(inverse) if inverse is not None and products.is_kept else None
        if saved is not None:
            products.refuse_unless(is_same(saved["preconditioner"], mark), "was written with another preconditioner")
        damped = products.operator.shift(shift)
        with products.multiplying_by(damped, beside=lambda: {**self.state(), "preconditioner": mark}):
            if saved is not None:
                products.go_on_from(saved)
            answers = corrections.answer(
                products,
                ConjugateGradients,
                self._B,
                start,
                inverse,
                tol=self._tol,
                atol=self._atol,
                room=self._room,
                saved=saved,
            )
        self.norms[place], self.endings[place] = answers.norms[0], answers.endings[0]
        self.steps[place] += answers.iterations[0]
        if answers.noise and answers.noise[1]:
            self.noise = max(self.noise or 0.0, answers.noise[1])
        self.direction = answers.direction if self.direction is None else self.direction
        return answers.X
