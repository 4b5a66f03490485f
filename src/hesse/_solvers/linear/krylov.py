"""What Krylov methods for many right-hand sides share: columns that stop by themselves, and a preconditioner."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State

KEPT = ("x", "r", "columns", "targets", "solution", "iterations")


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

    Args:
        operator: A.
        B: right-hand sides of norm one, (n, k).
        targets: the residual norm at which each column stops, (k,).
        preconditioner: M, about the inverse of A, symmetric and positive definite.
        scale: a norm of A, preconditioned, that is known already, or zero.

    Attributes:
        vectors: what is to be multiplied by A next, a column for each that runs.
        solution: X, (n, k); up to date for columns that have stopped.
        endings: why each column has stopped, or "".
        iterations: steps that each column has taken, (k,).
        direction: of a nonpositive curvature that was met, (n, 1), or None.
        scale: the largest norm of A, preconditioned, that is known.
    """

    STATE: ClassVar[tuple[str, ...]]
    # Endings after which an iterate is worth something even where its residual has grown.
    KEEPS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, operator: Operator, B: Tensor, targets: Tensor, preconditioner: Preconditioner | None, scale: float
    ) -> None:
        self.operator = operator
        self.scale = scale
        self.targets = targets
        self.preconditioner = preconditioner
        self.eps = torch.finfo(B.dtype).eps
        self.columns = torch.arange(B.shape[1], device="cpu")
        self.solution = torch.zeros_like(B)
        self.endings = [""] * B.shape[1]
        self.iterations = torch.zeros(B.shape[1], dtype=torch.int64, device="cpu")
        self.direction: Tensor | None = None
        self.x = torch.zeros_like(B)
        self.r = B.clone()

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
        stopped = torch.zeros(self.width, dtype=torch.bool, device="cpu")
        for ending, befell in self.advance(images):
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
        for name in (*KEPT, *self.STATE, "endings", "scale"):
            setattr(self, name, state[f"run.{name}"])
        self.direction = state.get("run.direction")

    def _keep(self, kept: Tensor) -> None:
        rows = self.columns[~kept].to(self.x.device)
        self.solution.mT[rows] = blocks.select(self.x, ~kept).mT
        for name in ("x", "r", "columns", "targets", *self.STATE):
            setattr(self, name, blocks.select(getattr(self, name), kept))

    def precondition(self, R: Tensor) -> tuple[Tensor, Tensor]:
        """M·R, and rᵀ·M·r for each column."""
        if self.preconditioner is None:
            return R, blocks.dots(self.operator, R, R)
        return self.preconditioner(R)

    def notice(self, direction: Tensor) -> None:
        """Remember the first direction of nonpositive curvature."""
        if self.direction is None:
            self.direction = direction.clone()
