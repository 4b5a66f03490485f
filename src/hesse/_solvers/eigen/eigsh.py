"""``eigsh``: extreme eigenvalues of a symmetric operator, with residuals, by thick-restart Lanczos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesse._base import checks
from hesse._operators.dense import as_operator
from hesse._operators.probes import Rng
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.eigen.capacity import capacity
from hesse._solvers.eigen.eigenpairs import Eigenpairs
from hesse._solvers.eigen.search import Search
from hesse._solvers.eigen.wanted import Wanted, Which
from hesse._solvers.run import Callback, Products


def eigsh(
    A: Any,
    k: int | tuple[int, int] = 6,
    *,
    which: Which = "LM",
    tol: float = 1e-6,
    max_products: int | None = None,
    basis_size: int | None = None,
    block_size: int = 1,
    memory: int | str | None = None,
    basis_device: torch.device | str | None = None,
    certify: bool = False,
    start: Tensor | Eigenpairs | None = None,
    rng: Rng = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Eigenpairs:
    r"""k extreme eigenvalues of a symmetric operator and their eigenvectors, :math:`A x = \lambda x`.

    Thick-restart Lanczos: full reorthogonalization by matrix products, and residual norms from the products that the
    basis was made of, so that they cost none. The residual of a pair that has converged meets

    .. math:: \|A x - \lambda x\| \le \max(\mathrm{tol} \cdot |\lambda|, \; 32 \, \varepsilon \, \|A\|),

    with :math:`\varepsilon` of the operator's dtype and :math:`\|A\|` taken for the largest :math:`|\lambda|` seen.
    Small residuals do not say that these are the pairs that were asked for: a Krylov space holds one vector only of
    each eigenvalue, however often it is there. So once residuals are small, Lanczos from a fresh random vector, away
    from all that is known, bounds the eigenvalues that are left; if one better than those found may be there, by more
    than sixteen times the bound above, the search goes on with that vector too. A missing one is overlooked with a
    probability below 2e-4.

    Args:
        A: a symmetric operator of shape (n, n), such as a ``hesse.Hessian``, or what ``hesse.as_operator`` takes.
        k: how many, from 1 to n; for ``"BE"`` also a pair (how many of the smallest, how many of the largest).
        which: as SciPy names them: ``"LM"`` for the largest in magnitude, of either sign; ``"LA"`` for the largest,
            ``"SA"`` for the smallest; ``"BE"`` for both ends, half of them each, one more of the largest where k is
            odd.
        tol: relative residual at which a pair has converged.
        max_products: how many products may be made; max(300, 20·k), and at most 10·n, where it is not given.
        basis_size: how many vectors may be held at a time, each with its product: at least k + 2·block_size (or n);
            where it is not given, what ``memory`` allows, at most 2000. The fewer they are, the more products it takes.
        block_size: how many vectors are multiplied at once. More than one is worth its price, some products more,
            where many products at once are faster than one by one, and for clusters: the Krylov space of a block finds
            as many equal eigenvalues as it has vectors.
        memory: what the basis, its products and the answer may take at their peak, beside what a product takes: bytes,
            or a size such as ``"2GiB"``; a quarter of the memory of the device that holds it where it is not given.
        basis_device: where the basis is held and orthogonalized, such as ``"cpu"`` for an operator on a GPU whose
            memory is short: then one vector for each product goes there, and one comes back.
        certify: whether to make k products more, for true residuals. They are counted apart from ``max_products``.
        start: where to begin: flat vectors, (n,) or columns (n, j), or the answer at another point, such as the last
            step of a training; a random vector where it is not given. The answer is as certain as without: the look
            for missing eigenvalues begins from a random vector all the same, so that fewer products are saved the more
            crowded that end of the spectrum is, and at a very crowded one none.
        rng: seed, or NumPy or PyTorch generator, of the random vectors.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, the search goes on from it. It holds the basis and its products, k + 2·block_size of each or
            more.
        callback: given a ``hesse.Progress`` as the search goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``Eigenpairs``, which unpack to values and vectors. Where products ran out they are the best known so far,
        ``converged`` is false, and one ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square or not symmetric, a number is out of range, or ``start`` does not fit.
        NonFiniteProductError: a product holds infinities or NaNs.
        MemoryBudgetError: the smallest basis, or one of ``basis_size``, takes more than ``memory`` allows.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", SIAM J. Matrix Anal.
    Appl. 22 (2000) 602–616; with more starting vectors, as Ruhe, "Implementation aspects of band Lanczos algorithms",
    Math. Comp. 33 (1979) 680–687; with blocks, Golub and Underwood, "The block Lanczos method for computing
    eigenvalues", in Mathematical Software III, Academic Press 1977, 361–377.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.tensor([1.0, 2.0, 3.0]))
        >>> top = hesse.eigsh(H, k=2, which="LA", rng=0)
        >>> [round(value, 4) for value in top.values.tolist()], top.converged
        ([9.0, 4.0], True)
        >>> values, vectors = hesse.eigsh(H, k=2, rng=0)
        >>> vectors.shape
        torch.Size([3, 2])
    """
    checks.numbers("eigsh", tol=tol)
    checks.flags("eigsh", certify=certify)
    checks.devices("eigsh", optional=True, basis_device=basis_device)
    checks.wholes("eigsh", 1, block_size=block_size)
    checks.wholes("eigsh", 1, optional=True, max_products=max_products, basis_size=basis_size)
    operator = as_operator(A)
    wanted = Wanted.parse(k, which, operator.shape[1])
    if max_products is None:
        max_products = min(max(300, 20 * wanted.count), 10 * operator.shape[1])
    with Products(operator, "eigsh", max_products=max_products, callback=callback, progress=progress) as products:
        products.require_symmetric()
        if max_products < wanted.count:
            raise ValueError(
                f"max_products given to eigsh should be at least k, {wanted.count}, but is {max_products}."
            )
        device = operator.device if basis_device is None else torch.device(basis_device)
        products.agree(certify=certify)
        columns = _columns(start, products)
        generator = products.generator(rng)
        # Twenty for a first look, and what the wanted ones, converging together, have taken on networks.
        products.expect(20 + 4 * wanted.count)
        saved = products.resume(
            checkpoint,
            k=k,
            which=which,
            tol=tol,
            basis_size=basis_size,
            block_size=block_size,
            memory=memory,
            basis_device=str(device),
            start=columns,
        )
        size = capacity(
            products,
            wanted.count,
            block_size,
            basis_size=basis_size,
            budget=memory,
            device=device,
            earlier=saved["capacity"] if saved else None,
        )
        search = Search(products, wanted, tol, size, block_size, device, generator)
        if saved is None:
            search.begin(columns)
        else:
            search.go_on_from(saved)
        search.run()
        pairs = search.answer(certify=certify)
        if not pairs.converged:
            met = sum(bound != "none" for bound in pairs.bounds)
            found = f"{met} of {wanted.count} eigenpairs have converged"
            if met == wanted.count:
                found = f"whether better ones than the {met} eigenpairs found are missing is not known"
            products.warn(found, "Their residuals say how good they are; raise max_products or tol.")
        return pairs


def _columns(start: Tensor | Eigenpairs | None, products: Products) -> Tensor:
    """The vectors to begin from, as columns (n, j) in the operator's dtype and on its device; (n, 0) for none."""
    operator = products.operator
    n = operator.length
    if start is None:
        return torch.empty(n, 0, dtype=operator.dtype, device=operator.device)
    # The space of one vector that has a part of each is found by fewer products than that of all of them.
    vectors = start.vectors.sum(1) if isinstance(start, Eigenpairs) else start
    if not isinstance(vectors, Tensor) or vectors.dim() not in (1, 2) or len(vectors) != n:
        found = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors)
        raise ValueError(f"start given to eigsh should be vectors of shape ({n},) or ({n}, j) but is {found}.")
    columns = (vectors if vectors.dim() == 2 else vectors.unsqueeze(-1)).detach().to(operator.device, operator.dtype)
    if bool(operator.total(~columns.isfinite().all(), "max")):
        raise ValueError("start given to eigsh should be finite but holds infinities or NaNs.")
    return columns
