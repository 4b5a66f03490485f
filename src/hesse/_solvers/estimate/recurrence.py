"""Lanczos by its three-term recurrence, where memory does not hold a basis."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import BREAKDOWN
from hesse._solvers.run import Products

KEPT = ("_vector", "_before", "_diagonal", "_beside", "norm")


class Recurrence:
    r"""The tridiagonal matrix T of Lanczos, of whose vectors only the last two are held.

    .. math:: \beta_j v_{j+1} = A v_j - \alpha_j v_j - \beta_{j-1} v_{j-1}

    Without reorthogonalization the vectors lose their orthogonality once a Ritz value has converged, and T gets copies
    of it. The copies share the weight of the eigenvalue: T is that of a measure whose points lie near eigenvalues. A
    quadrature by it is as right as by an orthogonal basis but for multiples of eps·‖A‖, and takes more steps.

    It has the attributes and methods of ``hesse._solvers.eigen.basis.Basis`` that a quadrature asks for.

    Source: Greenbaum, "Behavior of slightly perturbed Lanczos and conjugate-gradient recurrences", Linear Algebra Appl.
    113 (1989) 7–63; Knizhnerman, "The simple Lanczos procedure: estimates of the error of the Gauss quadrature formula
    and their applications", Comput. Math. Math. Phys. 36 (1996) 1481–1492.
    """

    def __init__(self, products: Products, capacity: int) -> None:
        self._products = products
        self._vector = self._before = blocks.empty(products.operator)
        self._diagonal: list[float] = []
        self._beside: list[float] = []
        self._eps = torch.finfo(products.operator.dtype).eps
        self.capacity = capacity
        self.norm = 0.0

    def push(self, vector: Tensor) -> None:
        """Begin from a vector (n, 1), if it is not zero."""
        vector, length = blocks.unit(self._products.operator, vector)
        if float(length):
            self._vector = vector

    @property
    def size(self) -> int:
        """How many steps were made."""
        return len(self._diagonal)

    @property
    def exhausted(self) -> bool:
        """Whether the last product lay in the space of the last two vectors."""
        return self._vector.shape[1] == 0

    @property
    def matrix(self) -> Tensor:
        """T, (size, size), float64."""
        beside = torch.tensor(self._beside[: max(0, self.size - 1)], dtype=torch.float64, device="cpu")
        diagonal = torch.tensor(self._diagonal, dtype=torch.float64, device="cpu")
        return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)

    def next(self) -> Tensor:
        """The last vector, (n, 1)."""
        return self._vector

    def take(self, image: Tensor) -> None:
        """One step, given the product with the last vector."""
        operator = self._products.operator
        rest = image
        if self._beside:
            rest = torch.sub(rest, self._before, alpha=self._beside[-1])
        self._before = blocks.empty(operator)
        along = float(blocks.dots(operator, self._vector, rest))
        # The product is its operator's own, and not written to.
        rest = torch.sub(rest, self._vector, alpha=along) if rest is image else rest.sub_(self._vector, alpha=along)
        length = float(self._products.norms(rest))
        self._diagonal.append(along)
        self._beside.append(length)
        self.norm = max(self.norm, abs(along), length)
        if length > BREAKDOWN * self._eps * self.norm:
            self._before, self._vector = self._vector, rest.div_(length)
        else:
            self._vector = self._before

    def state(self, name: str) -> State:
        """What a checkpoint keeps of it, under names that begin so."""
        return {f"{name}.{part}": getattr(self, part) for part in KEPT}

    def go_on_from(self, saved: State, name: str) -> None:
        """Take over what another one kept."""
        for part in KEPT:
            setattr(self, part, saved[f"{name}.{part}"])
