"""What Krylov methods for many right-hand sides share: columns that stop by themselves, and a preconditioner."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State

KEPT = ("x", "columns", "targets", "norms", "solution", "iterations")


class Preconditioner:
    """M times a power of two that brings it near one: no method's answer depends on that factor.

    Attributes:
        exponent: of that power of two; None before the first product.
    """

    def __init__(self, operator: Operator, matrix: Operator) -> None:
        self._operator, self._matrix = operator, matrix
        self.exponent: int | None = None

    def __call__(self, R: Tensor) -> tuple[Tensor, Tensor]:
        """M·R, and rᵀ·M·r for each column."""
        lengths = blocks.norms(self._operator, R)
        # Small vectors times a small matrix would lose digits.
        powers = (
            blocks.exponents(lengths) if self.exponent else torch.zeros(R.shape[1], dtype=torch.int64, device="cpu")
        )
        Z = self._matrix.matmat(blocks.ldexp(R, -powers).to(self._matrix.dtype)).detach().to(R.dtype)
        if self.exponent is None:
            found = blocks.norms(self._operator, Z)
            self.exponent = -int(blocks.exponents((found / lengths).max())) if bool(found.all()) else 0
        Z = blocks.ldexp(Z, powers + self.exponent)
        squares = blocks.dots(self._operator, R, Z)
        if not bool((squares >= 0).all()):
            raise ValueError(
                "The preconditioner given to solve should be positive definite but gave a vector r with rᵀMr ="
                f" {float(blocks.ldexp(squares.min(), -self.exponent)):.3g}. Give one that is, such as hesse.jacobi or"
                " hesse.nystrom."
            )
        return Z, squares


class Krylov(abc.ABC):
    """A method that solves A·X = B column by column, all running columns with one block product a step.

    Vectors are written in place, so that a step makes no other than its products.

    Args:
        operator: A.
        B: right-hand sides of norm one, (n, k), whose memory the method may use.
        targets: the residual norm at which each column stops, (k,).
        preconditioner: M, about the inverse of A, symmetric and positive definite.
        scale: a norm of A, preconditioned, that is known already, or zero.
        room: how many vectors it may hold of each column, at least ``LEAST``.

    Attributes:
        norms: of the residuals by the method's own account, of the columns that run.
        vectors: what is to be multiplied by A next, a column for each that runs.
        solution: X, (n, k), up to date for columns that have stopped; None before the first of them has.
        endings: why each column has stopped, or "".
        iterations: steps that each column has taken, (k,).
        direction: of a nonpositive curvature that was met, (n, 1), or None.
        scale: the largest norm of A, preconditioned, that is known.
        confirms: whether it begins where another run has said that no residual is smaller.
    """

    STATE: ClassVar[tuple[str, ...]]
    # Vectors of each column beside b and the answer: what it cannot do without, and what it has a use for.
    LEAST: ClassVar[int]
    MOST: ClassVar[int]
    # Endings after which an iterate is worth something even where its residual has grown.
    KEEPS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        operator: Operator,
        B: Tensor,
        targets: Tensor,
        preconditioner: Preconditioner | None,
        scale: float,
        room: int,
    ) -> None:
        self.operator = operator
        self.scale = scale
        self.targets = targets
        self.preconditioner = preconditioner
        self.eps = torch.finfo(B.dtype).eps
        self.columns = torch.arange(B.shape[1], device="cpu")
        self.solution: Tensor | None = None
        self.endings = [""] * B.shape[1]
        self.iterations = torch.zeros(B.shape[1], dtype=torch.int64, device="cpu")
        self.direction: Tensor | None = None
        self.norms = torch.ones(B.shape[1], dtype=torch.float64, device="cpu")
        self.room = room
        self.confirms = False
        self.x = torch.zeros_like(B)

    @property
    @abc.abstractmethod
    def vectors(self) -> Tensor:
        """What is to be multiplied by A next."""

    @abc.abstractmethod
    def advance(self, images: Tensor) -> list[tuple[str, Tensor]]:
        """Go one step on, given A·vectors; endings and the running columns that they befell."""

    @property
    def width(self) -> int:
        """How many columns are running."""
        return len(self.columns)

    def step(self, images: Tensor) -> None:
        """Go on by the products with ``vectors``."""
        self.iterations[self.columns] += 1
        self.stop(self.advance(images))

    def stop(self, causes: list[tuple[str, Tensor]]) -> None:
        """End columns by the first cause that befell each."""
        stopped = torch.zeros(self.width, dtype=torch.bool, device="cpu")
        for ending, befell in causes:
            for column in self.columns[befell & ~stopped].tolist():
                self.endings[column] = ending
            stopped |= befell
        if bool(stopped.any()):
            self._keep(~stopped)

    def close(self) -> None:
        """Hand over the columns that are still running."""
        self._keep(torch.zeros(self.width, dtype=torch.bool, device="cpu"))

    def state(self) -> State:
        """All that the next step depends on."""
        tensors = {name: getattr(self, name) for name in (*KEPT, *self.STATE)}
        kept = {**tensors, "endings": self.endings, "scale": self.scale, "direction": self.direction}
        return {f"run.{name}": value for name, value in kept.items() if value is not None}

    def load(self, state: State) -> None:
        """Go on from what ``state`` gave."""
        for name in (*KEPT, *self.STATE, "endings", "scale", "direction"):
            # What is None is not kept.
            is_known = f"run.{name}" in state or getattr(self, name) is not None
            setattr(self, name, state[f"run.{name}"] if is_known else None)

    def _keep(self, kept: Tensor) -> None:
        if self.solution is None and not bool(kept.any()):
            # All columns stop together, and x is the answer.
            self.solution = self.x
        else:
            if self.solution is None:
                self.solution = torch.zeros(len(self.endings), len(self.x), dtype=self.x.dtype, device=self.x.device).mT
            for place in (~kept).nonzero().squeeze(1).tolist():
                self.solution[:, int(self.columns[place])] = self.x[:, place]
        for name in ("x", "columns", "targets", "norms", *self.STATE):
            part = getattr(self, name)
            setattr(self, name, None if part is None else blocks.select(part, kept))

    def precondition(self, R: Tensor) -> tuple[Tensor, Tensor]:
        """M·R, and rᵀ·M·r for each column."""
        if self.preconditioner is None:
            return R, blocks.dots(self.operator, R, R)
        return self.preconditioner(R)

    def notice(self, direction: Tensor) -> None:
        """Remember the first direction of nonpositive curvature."""
        if self.direction is None:
            self.direction = direction
