"""An orthonormal basis that grows by one vector with each product, and the operator restricted to it."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse.checkpoint import State
from hesse.products import Products

# A vector whose new part is that small, in units of eps·‖A‖, lies in the basis: it is rounding.
BREAKDOWN = 10


def orthogonalize(products: Products, blocks: list[Tensor], vector: Tensor) -> tuple[Tensor, Tensor, float]:
    """What of a vector (n, 1) is orthogonal to blocks of columns that are orthonormal, and its norm.

    Coefficients are subtracted again until the norm no longer drops: "twice is enough" (Parlett, The Symmetric
    Eigenvalue Problem, SIAM 1998, section 6.9).

    Returns:
        The remainder (n, 1), the coefficients of the blocks' columns in float64 on the CPU, the remainder's norm.
    """
    total = [torch.zeros(block.shape[1], dtype=torch.float64) for block in blocks]
    norm = products.norm(vector)
    while True:
        for place, block in enumerate(blocks):
            coefficients = products.operator.gram(block, vector)
            vector = vector - block @ coefficients
            total[place] += coefficients.squeeze(-1).double().cpu()
        before, norm = norm, products.norm(vector)
        # Where little was taken away, little of the blocks is left in the vector.
        if not norm < 0.7 * before:
            return vector, torch.cat(total), norm


class Basis:
    """Orthonormal vectors Q, their products A·Q, the matrix T = Qᵀ·A·Q, and tails P in which A·Q = Q·T + P·C.

    Vectors are rows of one matrix on the operator's device; T is float64 on the CPU. Each new vector is
    orthogonalized against all of Q by matrix products.

    Args:
        products: the question's products.
        capacity: how many vectors it can hold.
        keep_products: whether A·Q is kept, for residuals that cost no products.
    """

    def __init__(self, products: Products, capacity: int, *, keep_products: bool) -> None:
        self._products = products
        self._operator = products.operator
        self._vectors = self._rows(capacity)
        self._images = self._rows(capacity if keep_products else 0)
        self._matrix = torch.zeros(capacity, capacity, dtype=torch.float64)
        self._tails: list[Tensor] = []
        self._eps = torch.finfo(self._operator.dtype).eps
        self.capacity = capacity
        self.size = 0
        # The largest part of a product seen so far: what rounding is measured by.
        self.norm = 0.0

    def _rows(self, count: int) -> Tensor:
        return torch.empty(count, self._products.size, dtype=self._operator.dtype, device=self._operator.device)

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
    def exhausted(self) -> bool:
        """Whether there is no tail: the basis is an invariant subspace."""
        return not self._tails

    def push(self, vector: Tensor) -> None:
        """Take what of a vector (n, 1) is new as the last tail, if there is something."""
        remainder, _, norm = self._orthogonalize(vector)
        if norm > BREAKDOWN * self._eps * self._products.norm(vector):
            self._tails.append(remainder / norm)

    @property
    def next(self) -> Tensor:
        """The first tail, a unit vector (n, 1)."""
        return self._tails[0]

    def grow(self) -> None:
        """Take the first tail into the basis, by one product; what is new of the product becomes the last tail."""
        self.take(self._products.multiply(self.next))

    def take(self, image: Tensor) -> None:
        """``grow`` where the product (n, 1) of the first tail is known."""
        vector = self._tails.pop(0)
        place = self.size
        self._vectors[place] = vector.squeeze(-1)
        if self._images.shape[0]:
            self._images[place] = image.squeeze(-1)
        self.size += 1
        remainder, coefficients, norm = self._orthogonalize(image)
        self._matrix[place, : self.size] = coefficients
        self._matrix[: self.size, place] = coefficients
        self.norm = max(self.norm, float(coefficients.abs().max()), norm)
        if norm > BREAKDOWN * self._eps * self.norm:
            self._tails.append(remainder / norm)

    def _orthogonalize(self, vector: Tensor) -> tuple[Tensor, Tensor, float]:
        """What of a vector (n, 1) is orthogonal to basis and tails, its coefficients in the basis, and its norm."""
        remainder, coefficients, norm = orthogonalize(self._products, [self.vectors, *self._tails], vector)
        return remainder, coefficients[: self.size], norm

    def state(self, name: str = "basis") -> State:
        """What a checkpoint keeps of it, under names that begin so."""
        tails = {f"{name}.tail.{place}": tail for place, tail in enumerate(self._tails)}
        kept = {f"{name}.vectors": self._vectors[: self.size], f"{name}.images": self._images[: self.size]}
        return {**kept, **tails, f"{name}.matrix": self.matrix, f"{name}.norm": self.norm, f"{name}.tails": len(tails)}

    def go_on_from(self, saved: State, name: str = "basis") -> None:
        """Take over what another basis of this capacity kept."""
        self.size = len(saved[f"{name}.vectors"])
        self._vectors[: self.size] = saved[f"{name}.vectors"]
        self._images[: self.size] = saved[f"{name}.images"]
        self.matrix.copy_(saved[f"{name}.matrix"])
        self._tails = [saved[f"{name}.tail.{place}"] for place in range(saved[f"{name}.tails"])]
        self.norm = saved[f"{name}.norm"]

    def couplings(self) -> Tensor:
        """C = Pᵀ·A·Q, (tails, size), float64: ‖C·y‖ is the residual norm of a Ritz vector Q·y, up to rounding."""
        if not self._tails:
            return torch.zeros(0, self.size, dtype=torch.float64)
        return self._operator.gram(torch.cat(self._tails, dim=1), self.images).double().cpu()

    def restart(self, rotation: Tensor, values: Tensor) -> None:
        """Keep the Ritz vectors Q·rotation, (size, kept), whose Ritz values are given; afterwards T is diagonal."""
        kept = rotation.shape[1]
        turn = self._here(rotation.mT)
        self._vectors[:kept] = turn @ self._vectors[: self.size]
        self._images[:kept] = turn @ self._images[: self.size]
        self.size = kept
        self._matrix.zero_()
        self.matrix.diagonal().copy_(values)

    def ritz_vectors(self, coordinates: Tensor) -> Tensor:
        """x = Q·y for each column y of the coordinates, as columns (n, any)."""
        return self.vectors @ self._here(coordinates)

    def residuals(self, coordinates: Tensor, values: Tensor) -> Tensor:
        """A·x − λ·x for each x = Q·y as columns (n, any), from the products that were kept."""
        return self.images @ self._here(coordinates) - self.ritz_vectors(coordinates) * self._here(values)

    def residual_norms(self, coordinates: Tensor, values: Tensor) -> Tensor:
        """‖A·x − λ·x‖ for each x = Q·y, float64."""
        columns = torch.split(self.residuals(coordinates, values), 1, dim=1)
        return torch.tensor([self._products.norm(column) for column in columns], dtype=torch.float64)

    def _here(self, small: Tensor) -> Tensor:
        """A small float64 matrix as the vectors are: in their dtype and on their device."""
        return small.to(self._vectors.device, self._vectors.dtype)
