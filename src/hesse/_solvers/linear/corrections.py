"""Solve, look at the true residuals, and correct: what turns a Krylov method into an answer that can be trusted."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hesse._operators.operator import Operator
from hesse._solvers import columns as blocks
from hesse._solvers.checkpoint import State
from hesse._solvers.linear.krylov import Krylov
from hesse._solvers.run import Products

# A correction is worth another one while it makes the true residual at least that much smaller.
PROGRESS = 0.5


@dataclasses.dataclass
class Answers:
    """Solutions of A·X = B with their true residuals, as far as they have come.

    Attributes:
        X: solutions, (n, k).
        R: B − A·X by true products, (n, k).
        norms: of R, (k,).
        endings: why each column has stopped, or "" while it has not.
        iterations: steps taken by each column, (k,).
        direction: of negative curvature, (n, 1), or None.
    """

    X: Tensor
    R: Tensor
    norms: Tensor
    endings: list[str]
    iterations: Tensor
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


def begin(products: Products, B: Tensor, x0: Tensor | None, targets: Tensor) -> Answers:
    """Answers before the first step; a start other than zero costs a product for each column."""
    R = B.clone() if x0 is None else B - products.multiply(x0)
    norms = blocks.norms(products.operator, R)
    endings = ["converged" if norm <= target else "" for norm, target in zip(norms, targets, strict=True)]
    X = torch.zeros_like(B) if x0 is None else x0.clone()
    return Answers(X, R, norms, endings, torch.zeros(B.shape[1], dtype=torch.int64))


def carry_on(
    products: Products,
    method: type[Krylov],
    B: Tensor,
    answers: Answers,
    targets: Tensor,
    preconditioner: Operator | None,
    *,
    lift: bool,
    saved: State | None = None,
) -> None:
    """Correct the answers until each column has ended, and every residual is a true one.

    A method's own residual drifts from the true one by rounding. So the true one is made at its end, by one product for
    each column, and if it is too large the method starts again from there; a correction that hardly helps is the last.

    Args:
        products: the question's products.
        method: the Krylov method.
        B: right-hand sides, (n, k).
        answers: changed in place.
        targets: residual norms that are small enough, (k,).
        preconditioner: M, or None.
        lift: whether a least-squares solution is to be made the one of minimum length.
        saved: the state of the run that a checkpoint interrupted, if any.
    """
    while open_columns := [column for column, ending in enumerate(answers.endings) if not ending]:
        index = torch.tensor(open_columns)
        scales = answers.norms[index]
        starts = blocks.scale(blocks.select(answers.R, index), 1 / scales)
        run = method(products.operator, starts, targets[index] / scales, preconditioner)
        if saved is not None:
            run.load(saved)
            saved = None
        _iterate(products, run, answers, len(open_columns))
        ran = int(run.iterations.max()) > 0
        answers.iterations[index] += run.iterations
        answers.direction = answers.direction if answers.direction is not None else run.direction
        if ran:
            _add(products, B, answers, index, blocks.scale(run.solution, scales), run.endings if lift else [])
        for place, column in enumerate(open_columns):
            ending = run.endings[place]
            if answers.norms[column] <= targets[column]:
                answers.endings[column] = "converged"
            elif ending not in ("", "solved"):
                answers.endings[column] = ending
            elif ending == "" or not ran or products.left < 3:
                answers.endings[column] = "stopped" if products.stopped else "max_products"
            elif answers.norms[column] > PROGRESS * scales[place]:
                answers.endings[column] = "precision"


def _iterate(products: Products, run: Krylov, answers: Answers, columns: int) -> None:
    while run.width and products.left >= run.width + columns:
        run.step(products.multiply(run.vectors))
        largest = float(blocks.norms(products.operator, run.r).max()) if run.width else 0.0
        products.report(
            f"{columns - run.width} of {columns} done, residual of the others up to {largest:.2g} of theirs"
        )
        products.keep(lambda: {**answers.state(), **run.state()})
    run.close()


def _add(
    products: Products, B: Tensor, answers: Answers, index: Tensor, corrections: Tensor, endings: list[str]
) -> None:
    """X + corrections for the columns of ``index``, with true residuals."""
    operator, place = products.operator, index.to(B.device)
    X = blocks.select(answers.X, index) + corrections
    R = blocks.select(B, index) - products.multiply(X)
    lifted = torch.tensor([ending == "least_squares" for ending in endings] or [False] * len(index))
    if bool(lifted.any()) and products.left >= int(lifted.sum()):
        # The iterates hold of the null space only the right-hand side's part, which is the residual.
        r, x = blocks.select(R, lifted), blocks.select(X, lifted)
        x = x - blocks.scale(r, blocks.dots(operator, r, x) / blocks.dots(operator, r, r))
        X.mT[lifted.to(B.device)] = x.mT
        R.mT[lifted.to(B.device)] = (blocks.select(B, index[lifted]) - products.multiply(x)).mT
    answers.X.mT[place] = X.mT
    answers.R.mT[place] = R.mT
    answers.norms[index] = blocks.norms(operator, R)
