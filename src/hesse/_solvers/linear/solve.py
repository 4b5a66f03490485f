"""``solve``: linear systems with a symmetric operator, by conjugate gradients or MINRES."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hesse._base import checks
from hesse._operators.operator import Operator
from hesse._solvers.checkpoint import Checkpoint
from hesse._solvers.linear import corrections, implicit
from hesse._solvers.linear.conjugate_gradients import ConjugateGradients
from hesse._solvers.linear.krylov import Krylov
from hesse._solvers.linear.minres import Minres
from hesse._solvers.linear.right_hand_sides import RightHandSides
from hesse._solvers.linear.solution import SOLVED, Solution, certified, warn_of
from hesse._solvers.run import Callback, Products

METHODS: dict[str, type[Krylov]] = {"cg": ConjugateGradients, "minres": Minres}


def solve(
    A: Any,
    b: Any,
    *,
    method: Literal["auto", "cg", "minres"] = "auto",
    tol: float = 1e-6,
    atol: float = 0.0,
    max_products: int | None = None,
    preconditioner: Operator | None = None,
    x0: Any = None,
    create_graph: bool = False,
    memory: int | str | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Solution:
    r"""The solution of :math:`A x = b` for a symmetric operator.

    Every right-hand side stops by itself once a true product shows that
    :math:`\|b - A x\| \le \max(\mathrm{tol} \cdot \|b\|, \mathrm{atol})`. Where a singular system has solutions, MINRES
    from zero finds the one of minimum length; where it has none, the least-squares solution of minimum length, to about
    the root of the precision, which does not count as converged. What has not converged has no larger residual than the
    start; but where products run out, conjugate gradients return the point of the least error in A's norm so far.

    Args:
        A: a symmetric operator of shape (n, n), or what ``hesse.as_operator`` takes for one.
        b: a vector structured like the inputs of a Hessian, a flat one (n,), or columns (n, k).
        method: ``"cg"`` for positive definite operators, ``"minres"`` for any; ``"auto"`` is ``"cg"`` where the
            operator says that it is positive semidefinite.
        tol: residual norm relative to that of b.
        atol: residual norm.
        max_products: how many products may be made, those for true residuals among them; ten times n if not given, but
            from 100 to 10,000, for each right-hand side.
        preconditioner: an operator about the inverse of A, symmetric and positive definite, such as ``hesse.jacobi`` or
            ``hesse.nystrom``; with one a singular system's solution need not be the shortest.
        x0: where to start, like b; zero if not given.
        create_graph: connect the solution to b, and to what an operator made with ``create_graph=True`` closes over, by
            the implicit derivative :math:`dx = A^{-1}(db - dA\, x)`; one product more, and in the backward one solve.
        memory: what the vectors may take, b and x among them, beside what a product takes: bytes, or a size such as
            ``"2GiB"``; a quarter of the device's memory where it is not given. One right-hand side takes six vectors
            with ``"cg"`` and eight with ``"minres"``, which looks for negative curvature only where there are ten;
            several go on one at a time where they do not fit together.
        checkpoint: a file that keeps the state every minute, or a ``hesse.Checkpoint`` that says how often; where there
            is one already, the solve goes on from it.
        callback: given a ``hesse.Progress`` as it goes on; a true answer stops it.
        progress: whether to show a bar on standard error.

    Returns:
        ``Solution``, with true residuals, in the structure of b. Where not all residuals are small enough,
        ``converged`` is false, and one ``hesse.ConvergenceWarning`` is issued.

    Raises:
        ValueError: the operator is not square or not symmetric, b does not fit or is not finite, the preconditioner is
            not positive definite, or a number is out of range.
        NonFiniteProductError: a product holds infinities or NaNs.
        MemoryBudgetError: ``memory`` allows fewer vectors than the method needs.
        CheckpointError: the checkpoint is of another question, operator or version, or damaged.

    Source: ``conjugate_gradients.py`` and ``minres.py``; Liu, Milzarek and Roosta, "Obtaining pseudo-inverse
    solutions with MINRES", arXiv:2309.17096 (2023), for the minimum length.

    Example:
        >>> import torch, hesse
        >>> H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.tensor([1.0, 2.0]))
        >>> hesse.solve(H, torch.tensor([1.0, 1.0])).solution
        tensor([1.0000, 0.2500])
    """
    if method not in ("auto", *METHODS):
        raise ValueError(f"method given to solve should be 'auto', 'cg' or 'minres' but is {method!r}.")
    checks.numbers("solve", tol=tol, atol=atol)
    checks.wholes("solve", 1, optional=True, max_products=max_products)
    checks.flags("solve", create_graph=create_graph)
    with Products(
        A, "solve", max_products=max_products or 1, callback=callback, progress=progress, memory=memory
    ) as products:
        products.require_symmetric()
        operator = products.operator
        if create_graph and not operator.differentiable:
            raise ValueError(
                "solve(create_graph=True) differentiates through the operator but products of this"
                f" {type(operator).__name__} carry no derivatives. Those of a Hessian made with create_graph=True do."
            )
        with torch.set_grad_enabled(create_graph or torch.is_grad_enabled()):
            sides = RightHandSides("solve", operator, "b", b)
        start = None if x0 is None else RightHandSides("solve", operator, "x0", x0).columns.detach()
        B = sides.columns.detach()
        if start is not None and start.shape != B.shape:
            raise ValueError(f"x0 given to solve should have {B.shape[1]} columns, as b has, but has {start.shape[1]}.")
        products.max_products = _budget(products.size, B.shape[1], max_products, start is not None)
        _check_preconditioner(operator, preconditioner)
        if method == "auto":
            method = "cg" if operator.positive_semidefinite else "minres"
        saved = products.resume(
            checkpoint, method=method, tol=tol, atol=atol, b=B, x0=start, preconditioner=preconditioner
        )
        room = products.plan(*corrections.vectors(METHODS[method], B.shape[1], preconditioner))
        answers = corrections.answer(
            products, METHODS[method], B, start, preconditioner, tol=tol, atol=atol, room=room, saved=saved
        )
        direction, curvature = certified(products, answers.direction, answers.scales[True])
        warn_of(products, answers.endings, answers.norms)
        # The user's is memory like any other, which can be resized.
        X = answers.X if answers.X.untyped_storage().resizable() else answers.X.clone()
        if create_graph:

            def adjoint(G: Tensor) -> Tensor:
                found: Tensor = solve(
                    operator,
                    G,
                    method=method,
                    tol=tol,
                    max_products=max_products,
                    preconditioner=preconditioner,
                    memory=memory,
                ).solution
                return found

            X = implicit.connect(operator, sides.columns, X, adjoint)
            products.count += X.shape[1]
        with torch.set_grad_enabled(create_graph or torch.is_grad_enabled()):
            solution = sides.restore(X)
    return Solution(
        solution=solution,
        residual_norms=answers.norms,
        endings=tuple(answers.endings),
        converged=all(ending in SOLVED for ending in answers.endings),
        negative_curvature=None if direction is None else sides.restore_one(direction),
        curvature=curvature,
        num_iterations=answers.iterations,
        num_products=products.count,
        method=method,
        noise=answers.noise[1] or None if answers.noise else None,
    )


def _budget(n: int, columns: int, max_products: int | None, started: bool) -> int:
    if max_products is None:
        return max(1, columns) * min(max(10 * n, 100), 10_000)
    least = (2 + started) * columns
    if max_products < least:
        raise ValueError(
            f"max_products given to solve should be at least {least}, for a step and a true residual of each right-hand"
            f" side, but is {max_products}."
        )
    return max_products


def _check_preconditioner(operator: Operator, preconditioner: Operator | None) -> None:
    if preconditioner is None:
        return
    if not isinstance(preconditioner, Operator) or preconditioner.shape != operator.shape:
        found = preconditioner.shape if isinstance(preconditioner, Operator) else type(preconditioner)
        raise ValueError(
            f"The preconditioner given to solve should be an operator of shape {operator.shape} but is {found}. Wrap a"
            " matrix with hesse.as_operator."
        )
    shards = preconditioner.shards
    if shards is not operator.shards and (shards is None or not shards.is_like(operator.shards)):
        raise ValueError(
            "The preconditioner given to solve should have its vectors cut up among ranks as the operator has, but has"
            " not. Give hesse.jacobi the operator as like=, or make hesse.nystrom of it."
        )
    if not preconditioner.symmetric:
        raise ValueError("The preconditioner given to solve should be symmetric but does not say that it is.")
