"""``Eigenpairs``: what ``eigsh`` answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from hesse._base import tables
from hesse._solvers.noise import said


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Approximate eigenvalues and eigenvectors, and how good they are; they unpack to ``values, vectors``.

    Attributes:
        values: λ, shape (k,), float64 on the CPU: the best wanted first, for ``"BE"`` ascending.
        vectors: x as columns, shape (n, k), of norm one, in the operator's dtype and on its device.
        residuals: ‖A·x − λ·x‖, shape (k,), float64 on the CPU, from the products of the search, or from true products
            with the vectors where those were asked for. Some eigenvalue is that close to λ, up to rounding.
        bounds: for each pair the bound that its residual meets: ``"tol"`` for ``tol·|λ|``, ``"precision"`` for
            32·eps·‖A‖, ``"noise"`` for twice the noise of the products, or ``"none"``.
        complete: for each pair whether a look from a fresh random vector has shown that no better eigenvalue is
            missing at its end of the spectrum.
        converged: whether every pair that was asked for is there, meets a bound, and none is missing.
        num_products: products made by the search.
        num_looking: how many of them were made to look for missing ones.
        num_certificate_products: products made beside those, one with each vector, for true residuals.
        noise: to which part of themselves the products are linear, where that is measured and more than the rounding of
            the vectors' dtype, as where the model computes in bfloat16; else None.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    bounds: tuple[str, ...]
    complete: tuple[bool, ...]
    converged: bool
    num_products: int
    num_looking: int
    num_certificate_products: int
    noise: float | None = None

    def __iter__(self) -> Iterator[Tensor]:
        """Values and vectors, as other libraries return them."""
        return iter((self.values, self.vectors))

    def __repr__(self) -> str:
        columns = self.values.tolist(), self.residuals.tolist(), self.bounds, self.complete
        rows = [
            [f"{value:.7g}", f"{residual:.1e}", bound, tables.yes(complete)]
            for value, residual, bound, complete in zip(*columns, strict=True)
        ]
        found = tables.table(["eigenvalue", "residual", "bound met", "none missing"], rows)
        facts = [
            ("vectors", f"{tuple(self.vectors.shape)}, {self.vectors.dtype} on {self.vectors.device}"),
            ("products", f"{self.num_products}, {self.num_looking} of them to look for missing eigenvalues"),
            *said(self.noise),
            ("converged", tables.yes(self.converged)),
        ]
        return f"{found}\n\n{tables.labelled(facts)}"
