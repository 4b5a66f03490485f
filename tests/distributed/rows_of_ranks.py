"""A dense symmetric matrix as an operator whose vectors are cut up among ranks, unevenly and out of order."""

import torch
import torch.distributed as dist
from torch import Tensor

import hesse
from hesse._ranks.group import Ranks
from hesse._ranks.shards import Shards

CUTS = [0, 11, 27, 28, 60, 86]
# Which rank holds which piece. Of four, the last one holds nothing.
OWNERS = {2: [0, 1, 0, 1, 1, 0], 4: [0, 1, 0, 2, 2, 1]}


def matrix(n: int = 103, low: float = 1e-2) -> Tensor:
    """A positive definite matrix (n, n) with eigenvalues from ``low`` to 100."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    A = (Q * torch.logspace(2, torch.tensor(low).log10(), n, dtype=torch.float64)) @ Q.mT
    return (A + A.mT) / 2


def ranges(n: int, owners: list[int], rank: int) -> list[tuple[int, int]]:
    """The entries of a rank, the last piece first."""
    ends = [*CUTS[1:], n]
    return [(a, b - a) for a, b, owner in zip(CUTS, ends, owners, strict=True) if owner == rank][::-1]


class RowsOfRanks(hesse.Operator):
    """Each rank holds some rows of the matrix, and of every vector the same entries."""

    symmetric = True

    def __init__(self, A: Tensor, owners: list[int] | None = None, symmetric: bool = True) -> None:
        self.ranks = Ranks.of(dist.group.WORLD)
        owners = OWNERS[self.ranks.size] if owners is None else owners
        # With fewer owners than ranks, several hold the same.
        rank = self.ranks.rank % (max(owners) + 1) if max(owners) + 1 < self.ranks.size - 1 else self.ranks.rank
        self.shards = Shards(self.ranks, len(A), ranges(len(A), owners, rank))
        self.shape, self.dtype, self.device = (len(A), len(A)), A.dtype, A.device
        self.symmetric = symmetric
        self._rows, self._columns = self.part(A), self.part(A.mT)

    def part(self, v: Tensor) -> Tensor:
        """This rank's entries of a whole vector."""
        return torch.cat([v[first : first + count] for first, count in self.ranges] or [v[:0]])

    def matmat(self, V: Tensor) -> Tensor:
        return self._rows @ self.whole(V)

    def rmatmat(self, U: Tensor) -> Tensor:
        return self._columns @ self.whole(U)
