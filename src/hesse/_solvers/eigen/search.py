"""The search of ``eigsh``: a growing basis, restarts, and a look for what it may have missed."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.eigen.basis import Basis
from hesse._solvers.eigen.completeness import Completeness, Ritz
from hesse._solvers.eigen.eigenpairs import Eigenpairs
from hesse._solvers.eigen.wanted import Wanted
from hesse._solvers.noise import FACTOR, PRODUCTS, Noise, is_likely, measure
from hesse._solvers.run import Products

# What residuals computed in floating point can be expected to reach, in units of eps·‖A‖.
ROUNDING = 32
# After so many products, and twice as many, residuals that are larger than estimated by this factor are explained.
LOOK, APART = 64, 3
# An eigenvalue that is better by no more than so many times the bound of a residual is not missed.
LEEWAY = 16


class Search:
    """The state of a search.

    Args:
        products: the question's products.
        wanted: which eigenvalues are asked for.
        tol: relative residual at which a pair has converged.
        capacity: how many vectors may be held.
        block: how many vectors are multiplied at once.
        device: where they are held.
        rng: generator of the random vectors.
    """

    def __init__(
        self,
        products: Products,
        wanted: Wanted,
        tol: float,
        capacity: int,
        block: int,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self._products = products
        self._wanted = wanted
        self._tol = tol
        self._block = block
        self._rng = rng
        self._basis = Basis(products, capacity, keep_products=True, device=device)
        self._eps = torch.finfo(products.operator.dtype).eps
        self._norm = 0.0
        self._status = ""
        # The size at which the basis is looked at next.
        self._due = wanted.count
        self._noise: Noise | None = None
        # With how many products residuals are compared with their estimates next, which know nothing of rounding.
        self._look = 0 if is_likely(products) else LOOK
        self._completeness = Completeness(products, self._basis, self._rng)

    def begin(self, vectors: Tensor) -> None:
        """Grow the basis from these columns (n, j), as many as it has room for, and not from a random vector."""
        for place in range(min(vectors.shape[1], self._basis.capacity)):
            self._basis.push(vectors[:, place : place + 1])

    def go_on_from(self, saved: State) -> None:
        """Take over what a search for the same kept."""
        self._basis.go_on_from(saved)
        self._completeness.go_on_from(saved, self._wanted.ends)
        self._norm, self._due, self._status = saved["norm"], saved["due"], saved["status"]
        self._look = saved["look"]
        self._noise = None if saved["noise"] is None else Noise(*saved["noise"])

    def _state(self) -> State:
        return {
            **self._basis.state(),
            **self._completeness.state(self._wanted.ends),
            "norm": self._norm,
            "due": self._due,
            "status": self._status,
            "look": self._look,
            "noise": None if self._noise is None else dataclasses.astuple(self._noise),
            "capacity": self._basis.capacity,
        }

    def run(self) -> None:
        """Make products until every wanted pair has converged and none is missing, or none may be made any more."""
        basis, products = self._basis, self._products
        while products.left and basis.size < products.size:
            while basis.width < min(self._block, products.size - basis.size):
                basis.push(products.operator.randn(1, self._rng))
            basis.grow(min(self._block, basis.capacity - basis.size, products.left))
            products.report(self._status)
            full = basis.size == basis.capacity
            if basis.size >= self._due or basis.exhausted or full:
                values, coordinates = self._ritz()
                if self._settled(values, coordinates):
                    return
                if full and products.left:
                    self._restart()
                self._due = self._next_due()
            products.keep(self._state, decided=True)

    def _next_due(self) -> int:
        return self._basis.size + max(1, self._basis.size // 20)

    def answer(self, *, certify: bool) -> Eigenpairs:
        """The wanted Ritz pairs, with their residuals: true ones if so wanted, unless the user has stopped it."""
        values, coordinates = self._ritz()
        chosen = self._wanted.choose(values)
        whole = self._basis.size == self._products.size
        places = torch.cat(chosen)
        complete = torch.cat(
            [
                torch.full(part.shape, whole or end in self._completeness.ends, device="cpu")
                for end, part in zip(self._wanted.ends, chosen, strict=True)
            ]
        )
        if self._wanted.ascending:
            order = values[places].argsort()
            places, complete = places[order], complete[order]
        values, coordinates = values[places], coordinates[:, places]
        certify = certify and not self._products.stopped
        vectors = self._basis.ritz_vectors(coordinates)
        residuals = (
            self._true_residuals(vectors, values) if certify else self._basis.residual_norms(coordinates, values)
        )
        bounds = tuple(self._bound(*pair) for pair in zip(values.tolist(), residuals.tolist(), strict=True))
        met = len(places) == self._wanted.count and "none" not in bounds
        return Eigenpairs(
            values=blocks.ldexp(values, self._products.exponent),
            vectors=vectors.to(self._products.operator.device),
            residuals=blocks.ldexp(residuals, self._products.exponent),
            bounds=bounds,
            complete=tuple(complete.tolist()),
            converged=met and bool(complete.all()),
            num_products=self._products.count,
            num_looking=self._completeness.num_looking,
            num_certificate_products=len(values) if certify else 0,
            noise=self._noise.level if self._noise is not None and self._noise.level else None,
        )

    def _true_residuals(self, vectors: Tensor, values: Tensor) -> Tensor:
        found = []
        for X, theta in zip(blocks.pieces(vectors, self._block), torch.split(values, self._block), strict=True):
            found.append(self._products.norms(self._products.multiply(X, apart=True) - blocks.scale(X, theta)))
        return torch.cat(found)

    def _ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values, and the Ritz vectors' coordinates as columns."""
        values, coordinates = torch.linalg.eigh(self._basis.matrix)
        self._norm = max(self._norm, float(values.abs().max()))
        return values, coordinates

    def _settled(self, values: Tensor, coordinates: Tensor) -> bool:
        """Whether all that is wanted has converged and nothing is missing; where it has, a look is taken for that."""
        if self._basis.size == self._products.size:
            return True
        estimates = (self._basis.couplings() @ coordinates).norm(dim=0)
        claims = {}
        met = 0
        if self._noise is None and self._products.count >= self._look:
            best = self._wanted.best(values, 1)
            residual = float(self._basis.residual_norms(coordinates[:, best], values[best]))
            if self._look == 0 or residual > APART * float(estimates[best]) + self._rounding(float(values[best])):
                self._look_for_noise(coordinates[:, best])
            self._look = max(LOOK, 2 * self._products.count)
        for end, part in zip(self._wanted.ends, self._wanted.choose(values), strict=True):
            met_here = self._count_met(values[part], estimates[part])
            met += met_here
            if met_here == end.count and end not in self._completeness.ends:
                # The estimates know nothing of rounding.
                residuals = self._basis.residual_norms(coordinates[:, part], values[part])
                if self._count_met(values[part], residuals) < end.count:
                    self._look_for_noise(coordinates[:, part[residuals.argmax()] : part[residuals.argmax()] + 1])
                if self._count_met(values[part], residuals) == end.count:
                    claims[end] = end.claims(values, self._leeway(values[part][-1]))
        self._status = f"{met} of {self._wanted.count} converged"
        if claims:
            self._completeness.examine(claims, Ritz(values, coordinates, estimates), self._status)
        if met < self._wanted.count or not self._completeness.ends.issuperset(self._wanted.ends):
            return False
        # Turning the basis rounds: of two values that are wanted as much, the other one may come first now.
        return self._all_met(*self._ritz())

    def _all_met(self, values: Tensor, coordinates: Tensor) -> bool:
        """Whether the residuals of all that is wanted meet a bound."""
        parts = self._wanted.choose(values)
        met = [
            self._count_met(values[part], self._basis.residual_norms(coordinates[:, part], values[part]))
            for part in parts
        ]
        return sum(met) == self._wanted.count

    def _count_met(self, values: Tensor, residuals: Tensor) -> int:
        return sum(self._bound(*pair) != "none" for pair in zip(values.tolist(), residuals.tolist(), strict=True))

    def _bound(self, value: float, residual: float) -> str:
        if residual <= self._tol * abs(value):
            return "tol"
        if residual <= ROUNDING * self._eps * self._norm:
            return "precision"
        return "noise" if residual <= self._rounding(value) else "none"

    def _rounding(self, value: float) -> float:
        """What the residual of an eigenvalue can be expected to reach."""
        # The vector that was looked at may have a smaller product than this one.
        noise = 0.0 if self._noise is None else FACTOR * max(self._noise.size, self._noise.level * abs(value))
        return max(ROUNDING * self._eps * self._norm, noise)

    def _look_for_noise(self, coordinates: Tensor) -> None:
        """Once, by products with a Ritz vector."""
        if self._noise is None and self._products.left > PRODUCTS:
            self._noise = measure(self._products, self._basis.ritz_vectors(coordinates))

    def _leeway(self, value: Tensor) -> float:
        """By how much an eigenvalue that is missing may be better than this one, and not be looked for."""
        bound = max(self._tol * float(value.abs()), self._rounding(float(value)))
        return LEEWAY * bound or torch.finfo(torch.float32).tiny

    def _restart(self) -> None:
        """Keep the best Ritz vectors, a third of the room beside the wanted ones, and leave room for a block."""
        values, coordinates = self._ritz()
        count, capacity = self._wanted.count, self._basis.capacity
        kept = self._wanted.best(values, min(count + (capacity - count) // 3, capacity - self._block))
        self._basis.restart(coordinates[:, kept], values[kept])
