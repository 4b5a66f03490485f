"""``eigsh``: extreme eigenvalues of a symmetric operator, with residuals, by thick-restart Lanczos."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesse.eigen.basis import Basis
from hesse.eigen.ritz import Ritz
from hesse.eigen.wanted import Wanted
from hesse.operators.dense import as_operator
from hesse.operators.probes import Rng
from hesse.products import Callback, Products

# What residuals computed in floating point can be expected to reach, in units of eps·‖A‖.
ROUNDING = 32
# A vector whose new part is that small, in the same units, lies in the basis: it is rounding.
BREAKDOWN = 10
# Memory of the basis and its products where the caller does not say how many vectors it may hold.
BASIS_BYTES = 2**30
BASIS_VECTORS = 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Approximate eigenvalues and eigenvectors, and how good they are.

    Attributes:
        values: λ, shape (k,), float64 on the CPU: the best wanted first, for ``"BE"`` ascending.
        vectors: x as columns, shape (n, k), of norm one, in the operator's dtype and on its device.
        residuals: ‖A·x − λ·x‖, shape (k,), float64 on the CPU. Some eigenvalue is that close to λ, up to rounding.
        bounds: for each pair the bound that its residual meets: ``"tol"`` for tol·|λ|, ``"precision"`` for
            32·eps·‖A‖, or ``"none"``.
        converged: whether every pair that was asked for is there and meets a bound.
        num_products: products made.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    bounds: tuple[str, ...]
    converged: bool
    num_products: int


def eigsh(
    A: Any,
    k: int | tuple[int, int] = 6,
    *,
    which: str = "LA",
    tol: float = 1e-6,
    max_products: int | None = None,
    basis_size: int | None = None,
    rng: Rng = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Eigenpairs:
    r"""k extreme eigenvalues of a symmetric operator and their eigenvectors, :math:`A x = \lambda x`.

    Thick-restart Lanczos: full reorthogonalization by matrix products, and residual norms from the products that the
    basis was made of, so that they cost none. A pair has converged when

    .. math:: \|A x - \lambda x\| \le \max(\mathrm{tol} \cdot |\lambda|, \; 32 \, \varepsilon \, \|A\|),

    with :math:`\varepsilon` of the operator's dtype and :math:`\|A\|` taken for the largest |λ| seen.
    A lone starting vector cannot see the copies of a multiple eigenvalue, until rounding or an exhausted Krylov space
    brings them in. Where the space is exhausted a fresh random vector is taken, and the answer waits for it.

    Args:
        A: a symmetric operator of shape (n, n), such as a ``hesse.Hessian``, or what ``hesse.as_operator`` takes.
        k: how many, from 1 to n; for ``"BE"`` also a pair (how many of the smallest, how many of the largest).
        which: ``"LA"`` for the largest, ``"SA"`` for the smallest, ``"LM"`` for the largest in magnitude, ``"BE"`` for
            both ends, half of them each, one more of the largest where k is odd.
        tol: relative residual at which a pair has converged.
        max_products: how many products may be made; max(300, 20·k), and at most 10·n, where it is not given.
        basis_size: how many vectors may be held at a time, at least k + 2 (or n); where it is not given, what 1 GiB
            holds with their products, at most 2000.
        rng: seed or NumPy generator of the starting vector.
        callback: given a ``hesse.Progress`` as the search goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``Eigenpairs``. Where products ran out they are the best known so far, ``converged`` is false, and one
        ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square or not symmetric, or a number is out of range.
        NonFiniteProductError: a product holds infinities or NaNs.

    Source: Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal.
    Appl. 22 (2000) 602–616.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.tensor([1.0, 2.0, 3.0]))
        >>> top = hesse.eigsh(H, k=2, rng=0)
        >>> [round(value, 4) for value in top.values.tolist()], top.converged
        ([9.0, 4.0], True)
    """
    operator = as_operator(A)
    wanted = Wanted.parse(k, which, operator.shape[1])
    if max_products is None:
        max_products = min(max(300, 20 * wanted.count), 10 * operator.shape[1])
    with Products(operator, "eigsh", max_products=max_products, callback=callback, progress=progress) as products:
        products.require_symmetric()
        _check(products, wanted.count, tol, basis_size)
        search = _Search(products, wanted, tol, _capacity(products, wanted.count, basis_size), rng)
        search.run()
        pairs = search.pairs()
        if not pairs.converged:
            met = sum(bound != "none" for bound in pairs.bounds)
            products.warn(
                f"{met} of {wanted.count} eigenpairs have converged",
                "Their residuals say how good they are; raise max_products or tol.",
            )
        return pairs


def _check(products: Products, count: int, tol: float, basis_size: int | None) -> None:
    if not tol >= 0:
        raise ValueError(f"tol given to eigsh should be at least 0 but is {tol}.")
    if products.max_products < count:
        raise ValueError(f"max_products given to eigsh should be at least k, {count}, but is {products.max_products}.")
    least = min(count + 2, products.size)
    if basis_size is not None and basis_size < least:
        raise ValueError(f"basis_size given to eigsh should be at least {least} for k={count} but is {basis_size}.")


def _capacity(products: Products, count: int, basis_size: int | None) -> int:
    if basis_size is None:
        pair = 2 * products.size * products.operator.dtype.itemsize
        basis_size = max(min(BASIS_BYTES // max(pair, 1), BASIS_VECTORS), 2 * count + 2)
    return min(basis_size, products.size, products.max_products)


class _Search:
    """The state of a search: a basis of locked eigenvectors, then the Krylov vectors of the current run."""

    def __init__(self, products: Products, wanted: Wanted, tol: float, capacity: int, rng: Rng) -> None:
        self._products = products
        self._wanted = wanted
        self._tol = tol
        self._rng = np.random.default_rng(rng)
        self._basis = Basis(products, capacity, keep_products=True)
        self._eps = torch.finfo(products.operator.dtype).eps
        self._locked = 0
        self._norm = 0.0
        self._beta = 0.0
        self._status = ""

    def run(self) -> None:
        """Make products until every wanted pair has converged, or none may be made any more."""
        basis, products = self._basis, self._products
        vector = self._fresh_vector()
        checked = 0
        while True:
            remainder, self._beta = basis.append(vector)
            self._norm = max(self._norm, abs(float(basis.matrix[-1, -1])), self._beta)
            products.report(self._status)
            exhausted = self._beta <= BREAKDOWN * self._eps * self._norm
            full = basis.size == basis.capacity
            over = products.left == 0 or basis.size == products.size
            due = basis.size >= self._wanted.count and basis.size - checked >= max(1, basis.size // 20)
            if over or exhausted or full or due:
                checked = basis.size
                ritz = self._ritz()
                # The first exhausted run has seen one copy of each eigenvalue: the next one looks for others.
                blind = exhausted and not self._locked
                if over or (self._settled(ritz) and not blind):
                    return
                if exhausted or full:
                    self._restart(ritz, exhausted)
                    checked = basis.size
            vector = self._fresh_vector() if exhausted else remainder / self._beta

    def pairs(self) -> Eigenpairs:
        """The wanted Ritz pairs, with their true residuals."""
        ritz = self._ritz()
        chosen = self._wanted.choose(ritz)
        values = ritz.values[chosen]
        residuals = torch.tensor([self._residual(ritz, int(i)) for i in chosen], dtype=torch.float64)
        bounds = tuple(self._bound(float(v), float(r)) for v, r in zip(values, residuals, strict=True))
        turn = ritz.coordinates[:, chosen].to(self._basis.vectors.device, self._basis.vectors.dtype)
        return Eigenpairs(
            values=values,
            vectors=self._basis.vectors @ turn,
            residuals=residuals,
            bounds=bounds,
            converged=len(bounds) == self._wanted.count and "none" not in bounds and self._settled(ritz),
            num_products=self._products.count,
        )

    def _fresh_vector(self) -> Tensor:
        """A random unit vector orthogonal to the basis."""
        vector, _, norm = self._basis.orthogonalize(self._products.operator.randn(1, self._rng))
        return vector / norm

    def _ritz(self) -> Ritz:
        # The run is an invariant subspace away from the locked vectors, so its Ritz pairs are its own.
        matrix, locked, size = self._basis.matrix, self._locked, self._basis.size
        values, coordinates = torch.linalg.eigh(matrix[locked:, locked:])
        every = torch.zeros(size, size, dtype=torch.float64)
        every[:locked, :locked] = torch.eye(locked, dtype=torch.float64)
        every[locked:, locked:] = coordinates
        last = coordinates[-1].abs() if size > locked else coordinates.new_empty(0)
        self._norm = max(self._norm, float(values.abs().max()) if len(values) else 0.0)
        ritz = Ritz(
            values=torch.cat([matrix.diagonal()[:locked], values]),
            coordinates=every,
            estimates=torch.cat([torch.zeros(locked, dtype=torch.float64), self._beta * last]),
            locked=torch.arange(size) < locked,
            slack=ROUNDING * self._eps * self._norm,
        )
        self._status = self._describe(ritz)
        return ritz

    def _describe(self, ritz: Ritz) -> str:
        chosen = self._wanted.choose(ritz)
        met = sum(self._estimated(ritz, int(i)) for i in chosen)
        return f"{met} of {self._wanted.count} converged"

    def _settled(self, ritz: Ritz) -> bool:
        """Whether the wanted pairs have converged, and nothing speaks for better ones."""
        if len(ritz) < self._wanted.count:
            return False
        chosen = self._wanted.choose(ritz)
        whole = len(ritz) == self._products.size
        if not whole:
            must = {int(i) for i in chosen} | set(self._wanted.rivals(ritz))
            if not all(self._estimated(ritz, i) for i in must):
                return False
            # After an exhausted run, a fresh one proves by its own best pair that nothing better is left.
            if self._locked and not self._wanted.proved(ritz, lambda i: self._estimated(ritz, i)):
                return False
        return all(self._bound(float(ritz.values[i]), self._residual(ritz, int(i))) != "none" for i in chosen)

    def _estimated(self, ritz: Ritz, i: int) -> bool:
        return self._bound(float(ritz.values[i]), float(ritz.estimates[i])) != "none"

    def _residual(self, ritz: Ritz, i: int) -> float:
        return self._basis.residual_norm(ritz.coordinates[:, i], float(ritz.values[i]))

    def _bound(self, value: float, residual: float) -> str:
        if residual <= self._tol * abs(value):
            return "tol"
        return "precision" if residual <= ROUNDING * self._eps * self._norm else "none"

    def _restart(self, ritz: Ritz, exhausted: bool) -> None:
        """Keep the best Ritz vectors; those of an exhausted run are eigenvectors, and locked."""
        room = self._basis.capacity - self._basis.size
        count = self._wanted.count
        most = self._basis.size if room else count + (self._basis.capacity - count) // 3
        kept = self._wanted.best(ritz, min(most, self._basis.capacity - 1))
        kept = torch.cat([kept[ritz.locked[kept]], kept[~ritz.locked[kept]]])
        self._basis.restart(ritz.coordinates[:, kept], ritz.values[kept])
        self._locked = len(kept) if exhausted else int(ritz.locked[kept].sum())
