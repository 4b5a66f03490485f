"""Subspaces in which a model is minimized: Krylov spaces of products, and spaces of solves with a sparse factor."""

from __future__ import annotations

import abc
from typing import ClassVar, Self

import numpy as np
import scipy
import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import BREAKDOWN, Basis, orthogonalize
from hesse._solvers.eigen.capacity import BASIS_VECTORS
from hesse._solvers.linear.factorization import Factors, positive_factors
from hesse._solvers.minimize.places import Place, SparsePlace
from hesse._solvers.run import Products
from hesse._sparse.to_scipy import to_scipy

# A shift in units of the matrix's norm: the first where the matrix is not positive definite, and one that is dropped.
FIRST_SHIFT, NO_SHIFT = 1e-4, 1e-6
# By how much a shift grows until the shifted matrix is positive definite, and falls at the next point.
GROWTH, FALL = 10.0, 0.01


class Subspace(abc.ABC):
    """An orthonormal basis Q that begins with the gradient, and grows.

    Args:
        products: the question's products.
        place: the function at the point.
        room: how many vectors it may hold.
        earlier: that of the point before, if there was one.

    Attributes:
        least, most: how many vectors it cannot do without, and has a use for.
        forcing: by what the model's gradient is made smaller at least.
    """

    least: ClassVar[int]
    most: ClassVar[int]
    forcing: ClassVar[float]

    size: int
    capacity: int

    @abc.abstractmethod
    def __init__(self, products: Products, place: Place, room: int, earlier: Self | None) -> None: ...

    @property
    @abc.abstractmethod
    def price(self) -> int:
        """How many products growing takes."""

    @property
    @abc.abstractmethod
    def matrix(self) -> Tensor:
        """QᵀAQ, float64."""

    @property
    @abc.abstractmethod
    def exhausted(self) -> bool:
        """Whether it cannot grow."""

    @abc.abstractmethod
    def grow(self) -> None:
        """By one vector."""

    @abc.abstractmethod
    def residual(self, coordinates: Tensor) -> float:
        """The norm of the gradient of the model at its minimizer within the space, which lies outside of it."""

    @abc.abstractmethod
    def vector(self, coordinates: Tensor) -> Tensor:
        """Q·h, (n, 1)."""

    @abc.abstractmethod
    def state(self) -> State:
        """What a checkpoint keeps."""

    @abc.abstractmethod
    def go_on_from(self, saved: State) -> None:
        """Take over what another one at this point kept."""


class KrylovSpace(Subspace):
    """Span of g, A·g, A²·g and so on."""

    least, most, forcing = 2, BASIS_VECTORS, 0.5

    def __init__(self, products: Products, place: Place, room: int, earlier: Self | None) -> None:
        del earlier
        self._products, self._price = products, place.price
        self._basis = Basis(products, min(products.size, room), keep_products=False)
        self.capacity = self._basis.capacity
        if place.slope:
            self._basis.push(place.gradient)

    @property
    def size(self) -> int:  # type: ignore[override]  # read from the basis
        """That of the basis."""
        return self._basis.size

    @property
    def price(self) -> int:
        """One product."""
        return self._price

    @property
    def matrix(self) -> Tensor:
        """Out of the question's units."""
        return blocks.ldexp(self._basis.matrix, self._products.exponent)

    @property
    def exhausted(self) -> bool:
        """Whether the space is invariant."""
        return self._basis.exhausted

    def grow(self) -> None:
        """By what is new of a product with the last vector."""
        self._basis.grow()

    def residual(self, coordinates: Tensor) -> float:
        """The last coordinate times the norm of what the last product leaves outside of the space."""
        return self._products.grow(self._basis.coupling) * abs(float(coordinates[-1]))

    def vector(self, coordinates: Tensor) -> Tensor:
        """Q·h."""
        return self._basis.ritz_vectors(coordinates.unsqueeze(-1))

    def state(self) -> State:
        """The basis."""
        return self._basis.state()

    def go_on_from(self, saved: State) -> None:
        """With the basis."""
        self._basis.go_on_from(saved)


class FactorSpace(Subspace):
    r"""Span of :math:`g, M^{-1}g, M^{-2}g` and so on, for the factors of :math:`M = A + \sigma I` of a sparse A.

    M is positive definite: the shift :math:`\sigma` is zero where A is, and is raised until M is otherwise. Without a
    shift the space has Newton's step from its second vector on. With one it soon has the most negative curvature, as
    inverse iteration does.

    Source: Ruhe, "Rational Krylov sequence methods for eigenvalue computation", Linear Algebra and its Applications 58
    (1984) 391–405; Conn, Gould and Toint, Trust-Region Methods, SIAM 2000, section 7.3.
    """

    # Each vector has its product with A beside it.
    least, most, forcing = 4, 60, 0.01

    def __init__(self, products: Products, place: Place, room: int, earlier: Self | None) -> None:
        assert isinstance(place, SparsePlace)
        self._products, self._place = products, place
        self.capacity = min(products.size, room // 2)
        self.size = 0
        self._first_shift: float = FALL * earlier.shift if earlier is not None else 0.0
        self.shift: float = self._first_shift
        self._factors: Factors | None = None
        self._sparse: Tensor | None = None
        self._next: Tensor | None = blocks.unit(place.operator, place.gradient)[0] if place.slope else None
        self._Q = self._images = blocks.empty(place.operator)

    @property
    def price(self) -> int:
        """The products of the sparse matrix, which the first vector takes."""
        return 0 if self._factors is not None else self._place.matrix_price

    @property
    def matrix(self) -> Tensor:
        """From the products, which are kept."""
        found = blocks.gram(self._place.operator, self._Q, self._images)
        return 0.5 * (found + found.mT)

    @property
    def exhausted(self) -> bool:
        """Whether the last solve has brought nothing new."""
        return self._next is None

    def grow(self) -> None:
        """By what is new of a solve with the last vector."""
        operator, q = self._place.operator, self._next
        assert q is not None
        if self._factors is None:
            self._factorize()
        assert self._factors is not None
        assert self._sparse is not None
        self._Q, self._images = blocks.beside(self._Q, q), blocks.beside(self._images, self._sparse @ q)
        self.size += 1
        solved = self._factors.solve(np.asfortranarray(q.cpu().numpy()))
        vector, _ = blocks.unit(operator, torch.from_numpy(solved).to(q.device, q.dtype))
        remainder, _, norm = orthogonalize(self._products, [self._Q], vector)
        is_new = float(norm) > BREAKDOWN * torch.finfo(q.dtype).eps
        self._next = remainder / blocks.like(norm, remainder) if is_new else None

    def _factorize(self) -> None:
        """Make the sparse matrix, and raise the shift until the factors show a positive definite matrix."""
        place = self._place
        self._sparse, made = place.sparse_matrix()
        self._products.count += made
        stored = scipy.sparse.csc_array(to_scipy(self._sparse))
        norm = float(abs(stored).sum(axis=0).max())
        diagonal = scipy.sparse.eye_array(self._products.size, dtype=stored.dtype, format="csc")
        # A matrix of zeros has one shift.
        first, least = (FIRST_SHIFT * norm, NO_SHIFT * norm) if norm else (1.0, 1.0)
        if self.shift <= least:
            self.shift = 0.0
        # A shift of twice the norm makes the diagonal dominant.
        while (factors := positive_factors(stored + self.shift * diagonal if self.shift else stored)) is None:
            self.shift = max(GROWTH * self.shift, first)
        self._factors = factors

    def residual(self, coordinates: Tensor) -> float:
        """Of the products that are kept."""
        image = self._images @ blocks.like(coordinates.unsqueeze(-1), self._images)
        remainder, _, _ = orthogonalize(self._products, [self._Q], image)
        return float(blocks.norms(self._place.operator, remainder))

    def vector(self, coordinates: Tensor) -> Tensor:
        """Q·h."""
        return self._Q @ blocks.like(coordinates.unsqueeze(-1), self._Q)

    def state(self) -> State:
        """How large it is, and the shift that it began with: it is made anew."""
        return {"space.size": self.size, "space.shift": self._first_shift}

    def go_on_from(self, saved: State) -> None:
        """Grow as far as the other one had; the products were counted then."""
        self.shift = self._first_shift = saved["space.shift"]
        while self.size < saved["space.size"]:
            self.grow()
