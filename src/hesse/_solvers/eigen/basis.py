"""An orthonormal basis that grows by products with its last vectors, and the operator restricted to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.run import Products

# A vector whose new part is that small, in units of eps·‖A‖, lies in the basis: it is rounding.
BREAKDOWN = 10
# The basis is rewritten in place, so many entries of all vectors at a time, or what one vector takes if that is more.
ENTRIES = 1024
# Residuals are compared so many at a time.
WIDTH = 4


def at_once(count: int) -> int:
    """How many residuals of so many Ritz vectors are made at a time."""
    return max(1, min(WIDTH, count // 2))


def entries(length: int, kept: int) -> int:
    """How many entries of vectors are rewritten at a time, where so many vectors are kept."""
    return min(max(ENTRIES, length // max(1, kept)), length)


def orthogonalize(products: Products, known: list[Tensor], V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What of vectors (n, k) is orthogonal to blocks of columns that are orthonormal, and the norms of that.

    Coefficients are subtracted again until no norm drops any more: "twice is enough" (Parlett, The Symmetric
    Eigenvalue Problem, SIAM 1998, section 6.9). Of what lies in the blocks rounding is left, which may drop for ever.

    Returns:
        The remainders (n, k); the coefficients of the blocks' columns (columns, k), and the remainders' norms (k,), in
        float64 on the CPU.
    """
    total = [torch.zeros(block.shape[1], V.shape[1], dtype=torch.float64, device="cpu") for block in known]
    norms = products.norms(V)
    rounding, given = torch.finfo(V.dtype).eps * norms, V
    while True:
        for place, block in enumerate(known):
            if block.shape[1]:
                coefficients = products.operator.gram(block, V)
                V = V.clone() if V is given else V
                V.mT.addmm_(coefficients.mT, block.mT, alpha=-1)
                total[place] += coefficients.cpu().double()
        before, norms = norms, products.norms(V)
        # Where little was taken away, little of the blocks is left in the vectors.
        if not bool(((norms < 0.7 * before) & (norms > rounding)).any()):
            return V, torch.cat(total), norms


class Basis:
    """Orthonormal vectors Q, their products A·Q, the matrix T = Qᵀ·A·Q, and tails P in which A·Q = Q·T + P·C.

    Vectors are rows of one matrix on one device; T is float64 on the CPU. New vectors are orthogonalized against all of
    Q by matrix products.

    Args:
        products: the question's products.
        capacity: how many vectors it can hold.
        keep_products: whether A·Q is kept, for residuals that cost no products.
        device: where the vectors are; where the operator has its own if it is not given.
    """

    def __init__(
        self, products: Products, capacity: int, *, keep_products: bool, device: torch.device | None = None
    ) -> None:
        self._products = products
        self._operator = products.operator
        self.device = device or self._operator.device
        self._vectors = self._rows(capacity)
        self._images = self._rows(capacity if keep_products else 0)
        self._matrix = torch.zeros(capacity, capacity, dtype=torch.float64, device="cpu")
        self._tails = self._rows(0).mT
        self._eps = torch.finfo(self._operator.dtype).eps
        self.capacity = capacity
        self.size = 0
        # The largest part of a product seen so far: what rounding is measured by.
        self.norm = 0.0
        # Of the last product, the norm of what lies outside of Q.
        self.coupling = 0.0

    def _rows(self, count: int) -> Tensor:
        return torch.empty(count, self._operator.length, dtype=self._operator.dtype, device=self.device)

    @property
    def vectors(self) -> Tensor:
        """Q, as columns (n, size)."""
        return self._vectors[: self.size].mT

    @property
    def images(self) -> Tensor:
        """A·Q, as columns (n, size)."""
        return self._images[: self.size].mT

    @property
    def matrix(self) -> Tensor:
        """T, (size, size), float64."""
        return self._matrix[: self.size, : self.size]

    @property
    def width(self) -> int:
        """How many tails there are."""
        return self._tails.shape[1]

    @property
    def exhausted(self) -> bool:
        """Whether there is no tail: the basis is an invariant subspace."""
        return self.width == 0

    def push(self, vector: Tensor) -> None:
        """Take what of a vector (n, 1) is new as the last tail, if there is something."""
        vector, _ = blocks.unit(self._operator, vector.to(self.device))
        remainder, _, norm = orthogonalize(self._products, [self.vectors, self._tails], vector)
        self._append(remainder, float(norm), BREAKDOWN * self._eps)

    def _append(self, vector: Tensor, norm: float, rounding: float) -> None:
        """Take a vector, whose memory is the basis's from then on, unless it is rounding."""
        if norm > rounding:
            vector.div_(norm)
            self._tails = blocks.beside(self._tails, vector) if self.width else vector

    def next(self, width: int = 1) -> Tensor:
        """The first tails, orthonormal columns (n, width)."""
        return self._tails[:, :width]

    def grow(self, width: int = 1) -> None:
        """Take the first tails into the basis, by a product of each; what is new of the products becomes tails."""
        self.take(self._products.multiply(self.next(width)))

    def take(self, images: Tensor) -> None:
        """``grow`` where the products (n, width) of the first tails are known."""
        width, start = images.shape[1], self.size
        self.size += width
        self._vectors[start : self.size] = self.next(width).mT
        # A view without columns would hold the others.
        self._tails = self._tails[:, width:] if width < self.width else self._rows(0).mT
        if self._images.shape[0]:
            self._images[start : self.size] = images.mT
        remainders, coefficients, norms = orthogonalize(self._products, [self.vectors, self._tails], images)
        inside = coefficients[: self.size]
        inside[start:] = 0.5 * (inside[start:] + inside[start:].mT)
        self._matrix[: self.size, start : self.size] = inside
        self._matrix[start : self.size, : self.size] = inside.mT
        self.norm = max(self.norm, float(inside.abs().max()), float(norms.max()))
        known = self.width
        for remainder, norm in zip(blocks.pieces(remainders), norms, strict=True):
            fresh = self._tails[:, known:]
            if fresh.shape[1]:
                remainder, _, left = orthogonalize(self._products, [fresh], remainder)
                if float(left) < 0.5 * float(norm):
                    # The less is left, the more of it is what rounding had left of the others.
                    remainder, _, left = orthogonalize(self._products, [self.vectors, self._tails], remainder)
                norm = left
            self.coupling = float(norm)
            self._append(remainder, self.coupling, BREAKDOWN * self._eps * self.norm)

    def state(self, name: str = "basis") -> State:
        """What a checkpoint keeps of it, under names that begin so."""
        kept: State = {"vectors": self._vectors[: self.size], "images": self._images[: self.size], "tails": self._tails}
        kept |= {"matrix": self.matrix, "norm": self.norm, "coupling": self.coupling}
        return {f"{name}.{part}": value for part, value in kept.items()}

    def go_on_from(self, saved: State, name: str = "basis") -> None:
        """Take over what another basis of this capacity kept."""
        self.size = len(saved[f"{name}.vectors"])
        self._vectors[: self.size] = saved[f"{name}.vectors"]
        self._images[: self.size] = saved[f"{name}.images"]
        self.matrix.copy_(saved[f"{name}.matrix"])
        self._tails, self.norm = saved[f"{name}.tails"].to(self.device), saved[f"{name}.norm"]
        self.coupling = saved[f"{name}.coupling"]

    def couplings(self) -> Tensor:
        """C = Pᵀ·A·Q, (tails, size), float64: ‖C·y‖ is the residual norm of a Ritz vector Q·y, up to rounding."""
        return blocks.gram(self._operator, self._tails, self.images)

    def restart(self, rotation: Tensor, values: Tensor) -> None:
        """Keep the Ritz vectors Q·rotation, (size, kept), whose Ritz values are given; afterwards T is diagonal."""
        kept = self._here(rotation.mT)
        self._rewrite(lambda part: kept @ part, len(kept))
        self.size = len(kept)
        self._matrix.zero_()
        self.matrix.diagonal().copy_(values)

    def turn(self, coordinates: Tensor) -> None:
        """Make Ritz vectors Q·y, up to their signs, the first vectors of the basis, which spans what it did.

        As many reflections as there are coordinates y, orthonormal columns (size, any), turn all of it.
        """
        if not coordinates.shape[1]:
            return
        reflectors, factors = torch.geqrf(coordinates)
        here = self._here(reflectors), self._here(factors)
        self._rewrite(lambda part: torch.ormqr(*here, part, left=True, transpose=True), self.size)
        turned = torch.ormqr(reflectors, factors, self.matrix, left=True, transpose=True)
        turned = torch.ormqr(reflectors, factors, turned, left=False, transpose=False)
        self.matrix.copy_(0.5 * (turned + turned.mT))

    def _rewrite(self, change: Callable[[Tensor], Tensor], kept: int) -> None:
        """Replace vectors and products by ``kept`` combinations of them, a few entries of all of them at a time."""
        length = self._vectors.shape[1]
        step = max(1, entries(length, kept))
        for rows in (self._vectors, self._images):
            for start in range(0, length, step):
                place = slice(start, start + step)
                rows[:kept, place] = change(rows[: self.size, place])

    def ritz_vectors(self, coordinates: Tensor) -> Tensor:
        """x = Q·y for each column y of the coordinates, as columns (n, any)."""
        return (self._here(coordinates.mT) @ self._vectors[: self.size]).mT

    def residual_norms(self, coordinates: Tensor, values: Tensor) -> Tensor:
        """‖A·x − λ·x‖ for each x = Q·y, float64, from the products that were kept."""
        found = []
        width = at_once(len(values))
        for y, theta in zip(blocks.pieces(coordinates, width), torch.split(values, width), strict=True):
            residuals = self.images @ self._here(y)
            residuals.addcmul_(self.vectors @ self._here(y), self._here(theta), value=-1)
            found.append(self._products.norms(residuals))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device="cpu")

    def leftovers(self, count: int) -> Tensor:
        """RᵀR for the residuals R of the first vectors as Ritz vectors, (count, count), float64; see ``turn``."""
        starts = range(0, count, WIDTH)
        found = torch.zeros(count, count, dtype=torch.float64, device="cpu")
        for i in starts:
            left = self._residuals(i, min(i + WIDTH, count))
            for j in range(0, i + 1, WIDTH):
                part = blocks.gram(self._operator, left, left if j == i else self._residuals(j, j + WIDTH))
                found[i : i + WIDTH, j : j + WIDTH] = part
                found[j : j + WIDTH, i : i + WIDTH] = part.mT
        return found

    def _residuals(self, start: int, stop: int) -> Tensor:
        values = self._here(self.matrix.diagonal()[start:stop])
        return torch.addcmul(self.images[:, start:stop], self.vectors[:, start:stop], values, value=-1)

    def _here(self, small: Tensor) -> Tensor:
        """A small float64 matrix as the vectors are: in their dtype and on their device."""
        return small.to(self.device, self._operator.dtype)
