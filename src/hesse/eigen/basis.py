"""An orthonormal basis that grows by one vector with each product, and the operator restricted to it."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse.products import Products


class Basis:
    """Orthonormal vectors Q, their products A·Q, and the matrix T = Qᵀ·A·Q.

    Vectors are rows of one matrix on the operator's device; T is float64 on the CPU. Each new product is
    orthogonalized against all of Q by two matrix products (classical Gram–Schmidt), again until its norm no longer
    drops: "twice is enough" (Parlett, The Symmetric Eigenvalue Problem, SIAM 1998, section 6.9).

    Args:
        products: the question's products.
        capacity: how many vectors it can hold.
        keep_products: whether A·Q is kept, for residuals that cost no products.
    """

    def __init__(self, products: Products, capacity: int, *, keep_products: bool) -> None:
        self._products = products
        self._gram = products.operator.gram
        like = {"dtype": products.operator.dtype, "device": products.operator.device}
        self._vectors = torch.empty(capacity, products.size, **like)
        self._images = torch.empty(capacity if keep_products else 0, products.size, **like)
        self._matrix = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.capacity = capacity
        self.size = 0

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

    def append(self, vector: Tensor) -> tuple[Tensor, float]:
        """Take a unit vector (n, 1) that is orthogonal to the basis; what of its product the basis lacks, and ‖·‖."""
        return self.take(vector, self._products.multiply(vector))

    def take(self, vector: Tensor, image: Tensor) -> tuple[Tensor, float]:
        """``append`` for a vector whose product is known."""
        place = self.size
        self._vectors[place] = vector.squeeze(-1)
        if self._images.shape[0]:
            self._images[place] = image.squeeze(-1)
        self.size += 1
        remainder, coefficients, norm = self.orthogonalize(image)
        self._matrix[place, : self.size] = coefficients
        self._matrix[: self.size, place] = coefficients
        return remainder, norm

    def orthogonalize(self, vector: Tensor) -> tuple[Tensor, Tensor, float]:
        """What of a vector (n, 1) is orthogonal to the basis, its coefficients in the basis (size,), and its norm."""
        total = torch.zeros(self.size, dtype=torch.float64)
        norm = self._products.norm(vector)
        while True:
            coefficients = self._gram(self.vectors, vector)
            vector = vector - self.vectors @ coefficients
            total += coefficients.squeeze(-1).double().cpu()
            before, norm = norm, self._products.norm(vector)
            # Where little was taken away, little of the basis is left in the vector.
            if not norm < 0.7 * before:
                return vector, total, norm

    def restart(self, rotation: Tensor, values: Tensor) -> None:
        """Keep the Ritz vectors Q·rotation, (size, kept), whose Ritz values are given; afterwards T is diagonal."""
        kept = rotation.shape[1]
        turn = rotation.mT.to(self._vectors.device, self._vectors.dtype)
        self._vectors[:kept] = turn @ self._vectors[: self.size]
        if self._images.shape[0]:
            self._images[:kept] = turn @ self._images[: self.size]
        self.size = kept
        self._matrix.zero_()
        self.matrix.diagonal().copy_(values)

    def residual_norm(self, coordinates: Tensor, value: float) -> float:
        """‖A·x − λ·x‖ for x = Q·coordinates, from the products that were kept."""
        y = coordinates.to(self._vectors.device, self._vectors.dtype).unsqueeze(-1)
        return self._products.norm(self.images @ y - value * (self.vectors @ y))
