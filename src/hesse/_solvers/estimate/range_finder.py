"""The range of an operator, found from its products with random vectors, and what leaving one vector out would lose."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State


class RangeFinder:
    r"""Images Y = A·Ω of random vectors Ω as Y = Q·R, grown block by block.

    Leaving vector i out leaves the basis :math:`Q (I - s_i s_i^\top)`, where :math:`s_i` is the normalized column i of
    :math:`R^{-\top}`; the distance of :math:`y_i` from it is one over the norm of that column. So every vector serves
    as an independent probe of what the others have found, with no product more.

    Attributes:
        dimension: n, of the whole space.
        basis: Q, orthonormal columns (n, k).
        triangle: R, (k, k), float64 on the CPU.
        exhausted: whether an image lay in the span of those before it; such images are left out.

    Source: Epperly and Tropp, "Efficient error and variance estimation for randomized matrix computations", SIAM J.
    Sci. Comput. 46 (2024) A508–A528, section 2.
    """

    def __init__(self, operator: Operator) -> None:
        self._operator, self.dimension = operator, operator.shape[0]
        self.basis = blocks.empty(operator)
        self.triangle = torch.zeros(0, 0, dtype=torch.float64, device="cpu")
        self.exhausted = False

    @property
    def size(self) -> int:
        """k, how many images span the basis."""
        return self.basis.shape[1]

    @property
    def is_whole(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.size == self.dimension

    @property
    def unseen(self) -> float:
        """The length up to which an image outside of Q is taken for rounding: ‖A − Q·Qᵀ·A‖ of an exhausted range."""
        eps = torch.finfo(self._operator.dtype).eps
        return blocks.DEPENDENT * eps * float(self.lengths().max()) if self.size else 0.0

    def append(self, images: Tensor) -> Tensor:
        """Take the images of new random vectors; which of them were new directions, (columns,), bool."""
        before = self.size
        # The image of a probe that the range is nearly orthogonal to has the rounding of the others, not of its own.
        longest = float(torch.cat([self.lengths(), blocks.norms(self._operator, images)]).max())
        self.basis, new = blocks.orthonormalize(self._operator, self.basis, images, scale=longest)
        # Column j brought a new direction exactly where its last coefficient is the first of that row.
        leading = (new[before:] != 0).int().argmax(dim=1)
        fresh = torch.zeros(images.shape[1], dtype=torch.bool, device="cpu")
        fresh[leading] = True
        self.exhausted |= not bool(fresh.all())
        grown = torch.zeros(self.size, self.size, dtype=torch.float64, device="cpu")
        grown[:before, :before] = self.triangle
        grown[:, before:] = new[:, fresh]
        self.triangle = grown
        return fresh

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """The directions s_i that only one image holds, as columns (k, k), and the images' distances (k,)."""
        identity = torch.eye(self.size, dtype=torch.float64, device="cpu")
        inverse = torch.linalg.solve_triangular(self.triangle, identity, upper=True).mT
        lengths = (inverse**2).sum(dim=0).sqrt()
        return inverse / lengths, 1 / lengths

    def lengths(self) -> Tensor:
        """‖A·ω_i‖, (k,)."""
        return (self.triangle**2).sum(dim=0).sqrt()

    def distances(self) -> Tensor:
        """‖(I − Q_i·Q_iᵀ)·A·ω_i‖ for each vector left out, (k,): zeros once the range is exhausted."""
        return torch.zeros(self.size, dtype=torch.float64, device="cpu") if self.exhausted else self.leave_one_out()[1]

    def state(self) -> State:
        """All of it."""
        return {"range.basis": self.basis, "range.triangle": self.triangle, "range.exhausted": self.exhausted}

    def load(self, state: State) -> None:
        """Go on from what ``state`` gave."""
        self.basis, self.triangle = state["range.basis"], state["range.triangle"]
        self.exhausted = state["range.exhausted"]
