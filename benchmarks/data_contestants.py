"""Who multiplies by a matrix of a loss over data, and what each keeps between products."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants.base import CannotRun, Prepared, flat_leaves
from benchmarks.data_problems import Problem

# Just room for the tape of one batch in turn and what passes in a product, so that none of its stay. Programs keep less
# of a batch, so that some of theirs may.
ONE_BATCH = 3.02

OURS = ("hesse", "hesse compiled")
COMPILED = OURS[1]

Multiply = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """One way to multiply; ``make(problem, memory)`` gets it ready, with a budget where it takes one.

    Attributes:
        flat: its answer as a flat vector.
    """

    name: str
    make: Callable[[Problem, int | None], Multiply]
    flat: Callable[[Any], Tensor] = lambda answer: answer

    def prepare(self, problem: Problem, memory: int | None = None) -> Prepared:
        """For the harness, which calls ``one``."""
        one = self.make(problem, memory)
        return Prepared(one, one, one, self.flat, lambda answer: self.flat(answer)[None])


def hesse_operator(matrix: str, problem: Problem, engine: str, memory: int | None, recomputes: bool) -> Any:
    """One of hesse's operators over the data, with room for all batches or for the tape of one."""
    import hesse

    make = getattr(hesse, matrix)
    if recomputes and memory is None:
        with make(problem.model, problem.loss, problem.batches[0]) as first:
            first @ problem.vector
            # While a batch is linearized its gradient is there.
            memory = int(ONE_BATCH * (first.explain().bytes_kept + first.shape[0] * first.dtype.itemsize))
    H = make(problem.model, problem.loss, problem.batches, engine=engine, memory=memory)
    if recomputes:
        H @ problem.vector
        explained = H.explain()
        if (engine == "tape" and explained.kept) or explained.rows is not None:
            raise CannotRun(f"It should keep nothing and cut nothing: {explained}.")
    return H


def ours(matrix: str, engine: str, recomputes: bool) -> Contestant:
    def make(problem: Problem, memory: int | None) -> Multiply:
        H = hesse_operator(matrix, problem, engine, memory, recomputes)
        return lambda: H @ problem.vector

    name = OURS[engine == "compiled"] + (", room for one" if recomputes else "")
    return Contestant(name, make)


def all_of_ours(matrix: str) -> list[Contestant]:
    return [ours(matrix, engine, recomputes) for engine in ("tape", "compiled") for recomputes in (False, True)]


def curvlinops(kind: str) -> Contestant:
    def make(problem: Problem, memory: int | None) -> Multiply:
        import curvlinops

        operator = getattr(curvlinops, kind)(
            problem.model,
            problem.loss,
            list(problem.model.parameters()),
            problem.batches,
            progressbar=False,
            check_deterministic=False,
            num_data=sum(len(x) for x, _ in problem.batches),
        )
        return lambda: operator @ problem.vector

    return Contestant("curvlinops", make)


def eigenthings_hessian(problem: Problem, memory: int | None) -> Multiply:
    from hessian_eigenthings import HessianOperator, supervised_loss

    operator = HessianOperator(problem.model, problem.batches, supervised_loss(problem.loss))
    return lambda: operator @ problem.vector


def eigenthings_gauss_newton(problem: Problem, memory: int | None) -> Multiply:
    from hessian_eigenthings.loss_fns import supervised_forward, supervised_loss_of_output
    from hessian_eigenthings.operators import GGNOperator

    operator = GGNOperator(problem.model, problem.batches, supervised_forward, supervised_loss_of_output(problem.loss))
    return lambda: operator @ problem.vector


def pyhessian(single: bool) -> Contestant:
    """PyHessian keeps the gradient's graph of one batch, and evaluates those of a loader anew."""

    def make(problem: Problem, memory: int | None) -> Multiply:
        from pyhessian import hessian, hessian_vector_product

        warnings.filterwarnings("ignore", message="Using backward.* with create_graph=True")
        vector = list(problem.whole.split(problem.vector))
        problem.model.zero_grad()
        if single:
            (batch,) = problem.batches
            point = hessian(problem.model, problem.loss, data=batch, cuda=False)
            return lambda: hessian_vector_product(point.gradsH, point.params, vector)
        point = hessian(problem.model, problem.loss, dataloader=problem.batches, cuda=False)
        return lambda: point.dataloader_hv_product(vector)[1]

    return Contestant("PyHessian", make, flat_leaves)


MATRICES: dict[str, list[Contestant]] = {
    "hessian": [
        *all_of_ours("LossHessian"),
        curvlinops("HessianLinearOperator"),
        pyhessian(single=False),
        Contestant("hessian-eigenthings", eigenthings_hessian),
    ],
    "gauss-newton": [
        *all_of_ours("GaussNewton"),
        curvlinops("GGNLinearOperator"),
        Contestant("hessian-eigenthings", eigenthings_gauss_newton),
    ],
    "one batch": [ours("LossHessian", "tape", False), ours("LossHessian", "compiled", False), pyhessian(single=True)],
}
"""What is multiplied by, and who does. The last one is the Hessian of the loss of a single batch."""


def by_name(matrix: str, name: str) -> Contestant:
    return next(contestant for contestant in MATRICES[matrix] if contestant.name == name)


def gauss_newton_product(problem: Problem) -> Tensor:
    """JᵀLJv over all data in one batch, by torch.func's transforms: forward through J, then back."""
    from torch.func import functional_call, grad, jvp, vjp

    whole = problem.whole
    assert whole.supervised is not None
    features, targets = whole.supervised.batch
    point, vector = dict(whole.inputs), whole.vector()

    def predict(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(problem.model, parameters, (features,))

    prediction, pushed = jvp(predict, (point,), (vector,))
    slope = grad(lambda outputs: problem.loss(outputs, targets))
    curved = vjp(slope, prediction)[1](pushed)[0]
    pulled = vjp(predict, point)[1](curved)[0]
    return torch.cat([pulled[name].reshape(-1) for name in point])
