"""Solve, look at the true residuals, and correct: what turns a Krylov method into an answer that can be trusted."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.linear.krylov import Krylov, Preconditioner
from hesse._solvers.linear.minres import LEAST_SQUARES
from hesse._solvers.run import Products

# A correction is worth another one while it makes the true residual at least that much smaller.
PROGRESS = 0.5
# Of a least-squares solution ‖A·r‖ is below eps to this power, relative to ‖A‖·‖r‖; that is more than its method needs.
NULL = 1 / 3


@dataclasses.dataclass
class Answers:
    """Solutions of A·X = B with their true residuals, as far as they have come.

    Attributes:
        X: solutions, (n, k).
        R: B − A·X by true products, (n, k).
        norms: of R, (k,).
        endings: why each column has stopped, or "" while it has not.
        iterations: steps taken by each column, (k,).
        bare: which columns go on without the preconditioner.
        scales: the largest norms of A, preconditioned and not, that runs have seen; rounding is measured by them.
        direction: of negative curvature, (n, 1), or None.
    """

    X: Tensor
    R: Tensor
    norms: Tensor
    endings: list[str]
    iterations: Tensor
    bare: list[bool]
    scales: list[float]
    direction: Tensor | None = None

    def state(self) -> State:
        """All of it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f"answers.{name}": value for name, value in fields.items() if value is not None}

    @staticmethod
    def of(state: State) -> Answers:
        """What ``state`` gave."""
        names = [field.name for field in dataclasses.fields(Answers)]
        return Answers(**{name: state[f"answers.{name}"] for name in names if f"answers.{name}" in state})


def answer(
    products: Products,
    method: type[Krylov],
    B: Tensor,
    x0: Tensor | None,
    preconditioner: Operator | None,
    *,
    tol: float,
    atol: float,
    saved: State | None = None,
) -> Answers:
    """Solutions of A·X = B with residuals of at most max(tol·‖b‖, atol), or as good as they can be.

    Right-hand sides are brought near one by powers of two, as the products are, and the answers back.

    Args:
        products: the question's products.
        method: the Krylov method.
        B: right-hand sides, (n, k).
        x0: where to begin, (n, k), or None.
        preconditioner: M, or None.
        tol: residual norm relative to that of b.
        atol: residual norm.
        saved: the state of the run that a checkpoint interrupted, if any.
    """
    lengths = blocks.norms(products.operator, B)
    units = blocks.exponents(lengths)
    B, targets = blocks.ldexp(B, -units), blocks.ldexp((tol * lengths).clamp(min=atol), -units)
    inverse = None if preconditioner is None else Preconditioner(products.operator, preconditioner)
    if saved is None:
        answers = _begin(products, B, x0, units, targets)
        answers.bare = [inverse is None] * len(units)
    else:
        answers = Answers.of(saved)
    lift = x0 is None and inverse is None
    _carry_on(products, method, B, answers, units, targets, inverse, lift=lift, saved=saved)
    answers.X = blocks.ldexp(answers.X, units - products.exponent)
    answers.norms = blocks.ldexp(answers.norms, units)
    return answers


def _begin(products: Products, B: Tensor, x0: Tensor | None, units: Tensor, targets: Tensor) -> Answers:
    """Answers before the first step; a start other than zero costs a product for each column that is not zero."""
    X, R = torch.zeros_like(B), B.clone()
    # Zero solves what has zero for its right-hand side, wherever the caller would begin.
    open_columns = blocks.norms(products.operator, B).nonzero().squeeze(1)
    if x0 is not None and len(open_columns):
        starts, shifts = blocks.select(x0, open_columns), units[open_columns]
        lengths = blocks.norms(products.operator, starts)
        sizes = blocks.exponents(lengths)
        images = products.multiply(blocks.ldexp(starts, -sizes))
        if bool(lengths.any()):
            products.keep_units()
        place = open_columns.to(B.device)
        X.mT[place] = blocks.ldexp(starts, products.exponent - shifts).mT
        R.mT[place] -= blocks.ldexp(images, products.exponent + sizes - shifts).mT
    norms = blocks.norms(products.operator, R)
    endings = ["converged" if norm <= target else "" for norm, target in zip(norms, targets, strict=True)]
    return Answers(X, R, norms, endings, torch.zeros(B.shape[1], dtype=torch.int64, device="cpu"), [], [0.0, 0.0])


def _carry_on(
    products: Products,
    method: type[Krylov],
    B: Tensor,
    answers: Answers,
    units: Tensor,
    targets: Tensor,
    inverse: Preconditioner | None,
    *,
    lift: bool,
    saved: State | None,
) -> None:
    """Correct the answers until each column has ended, and every residual is a true one.

    A method's own residual drifts from the true one by rounding. So the true one is made at its end, by one product for
    each column, and if it is too large the method starts again from there; a correction that hardly helps is the last,
    and one that does harm is not taken. What minimizes a preconditioned residual goes on without the preconditioner.

    Args:
        products: the question's products.
        method: the Krylov method.
        B: right-hand sides, (n, k).
        answers: changed in place.
        units: exponents of the right-hand sides' units, (k,).
        targets: residual norms that are small enough, (k,).
        inverse: M, or None.
        lift: whether a least-squares solution is to be made the one of minimum length.
        saved: the state of the run that a checkpoint interrupted, if any.
    """
    eps = torch.finfo(B.dtype).eps
    if saved is not None and inverse is not None:
        inverse.exponent = saved["inverse.exponent"]
    while open_columns := [column for column, ending in enumerate(answers.endings) if not ending]:
        bare = all(answers.bare[column] for column in open_columns)
        open_columns = [column for column in open_columns if answers.bare[column] == bare]
        index, matrix = torch.tensor(open_columns, device="cpu"), None if bare else inverse
        starts, scales = blocks.unit(products.operator, blocks.select(answers.R, index))
        # No run makes a residual smaller than rounding of the first one.
        run = method(products.operator, starts, (targets[index] / scales).clamp(min=eps), matrix, answers.scales[bare])
        if saved is not None:
            run.load(saved)
            saved = None
        _iterate(products, run, answers, inverse, len(open_columns))
        ran = int(run.iterations.max()) > 0
        answers.direction = answers.direction if answers.direction is not None else run.direction
        answers.scales[bare] = run.scale
        endings = run.endings
        if ran:
            before, X = (blocks.select(part, index) for part in (answers.R, answers.X))
            changes = blocks.scale(run.solution, scales)
            X = X + changes
            # What the solution loses where it leaves the range of its dtype belongs to its residual.
            powers = units[index] - products.exponent
            X = blocks.ldexp(blocks.ldexp(X, powers), -powers)
            R = blocks.select(B, index) - products.multiply(X)
            norms = blocks.norms(products.operator, R)
            better = norms <= answers.norms[index]
            # The energy ½·xᵀAx − bᵀx changes by −½·cᵀ(r + r′) where the correction c takes r to r′.
            fallen = blocks.dots(products.operator, changes, before + R) > 0
            kept = torch.tensor([ending in method.KEEPS for ending in endings], device="cpu") & (
                answers.iterations[index] == 0
            )
            _replace(answers, index, X, R, norms, better | (kept & fallen))
        answers.iterations[index] += run.iterations
        claimed = torch.tensor([ending == "least_squares" for ending in endings], device="cpu")
        if bare and 0 < int(claimed.sum()) <= products.left:
            claimed[claimed.clone()] = ~_shorten(products, answers, index[claimed], lift=lift)
            endings = ["precision" if wrong else ending for wrong, ending in zip(claimed, endings, strict=True)]
        for place, column in enumerate(open_columns):
            ending = endings[place]
            answers.bare[column] |= ending == "least_squares"
            if answers.norms[column] <= targets[column]:
                answers.endings[column] = "converged"
            elif ending == "void" or (ending == "least_squares" and not bare):
                if products.left < 3:
                    answers.endings[column] = "stopped" if products.stopped else "max_products"
            elif ending not in ("", "solved"):
                answers.endings[column] = ending
            elif ending == "" or not ran or products.left < 3:
                answers.endings[column] = "stopped" if products.stopped else "max_products"
            elif answers.norms[column] > PROGRESS * scales[place]:
                answers.endings[column] = "precision"


def _iterate(products: Products, run: Krylov, answers: Answers, inverse: Preconditioner | None, columns: int) -> None:
    def state() -> State:
        return {**answers.state(), **run.state(), "inverse.exponent": None if inverse is None else inverse.exponent}

    while run.width and products.left >= run.width + columns:
        run.step(products.multiply(run.vectors))
        largest = float(blocks.norms(products.operator, run.r).max()) if run.width else 0.0
        products.report(
            f"{columns - run.width} of {columns} done, residual of the others up to {largest:.2g} of theirs"
        )
        products.keep(state)
    run.close()


def _shorten(products: Products, answers: Answers, index: Tensor, *, lift: bool) -> Tensor:
    """Whether columns are least-squares solutions, by a true product with each residual; those of minimum length, then.

    The iterates hold of the null space only the right-hand side's part, which is the residual.
    """
    operator, eps = products.operator, torch.finfo(answers.X.dtype).eps
    X, R = blocks.select(answers.X, index), blocks.select(answers.R, index)
    directions, lengths = blocks.unit(operator, R)
    images = products.multiply(directions)
    found: Tensor = blocks.norms(operator, images) <= eps**NULL * answers.scales[True]
    if lift:
        along = blocks.dots(operator, directions, X)
        X, R = X - blocks.scale(directions, along), R + blocks.scale(images, along)
        norms = blocks.norms(operator, R)
        # Beside the shortest solution, what the residual of a least-squares solution is known to counts for nothing.
        _replace(answers, index, X, R, norms, found & (norms <= (1 + eps**LEAST_SQUARES) * lengths))
    return found


def _replace(answers: Answers, index: Tensor, X: Tensor, R: Tensor, norms: Tensor, chosen: Tensor) -> None:
    place = index[chosen].to(X.device)
    answers.X.mT[place] = blocks.select(X, chosen).mT
    answers.R.mT[place] = blocks.select(R, chosen).mT
    answers.norms[index[chosen]] = norms[chosen]
