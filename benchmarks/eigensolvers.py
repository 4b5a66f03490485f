"""Who answers for the ten largest eigenvalues of a network's Hessian, and how a user would ask for more accuracy.

Each is a function of a workload and the accuracy that is wanted, residuals relative to the eigenvalues. It gives
attempts, the least effort first: a label, and a call that answers, given a seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

import hesse
from benchmarks.contestants import curvlinops, hessian_eigenthings, pyhessian
from benchmarks.contestants.base import flat_list, supervised
from benchmarks.workloads.base import Workload

K = 10


@dataclass(frozen=True)
class Answer:
    """Eigenvalues, eigenvectors as rows (K, n), and how many products it took, of which some look for missing ones."""

    values: Any
    vectors: Tensor
    products: int | None = None
    looking: int = 0


Attempts = Iterator[tuple[str, Callable[[int], Answer]]]


class Counted(hesse.Operator):
    """An operator that counts its products."""

    symmetric = True

    def __init__(self, operator: hesse.Operator) -> None:
        self._operator = operator
        self.shape, self.dtype, self.device = operator.shape, operator.dtype, operator.device
        self.count = 0

    def matmat(self, V: Tensor) -> Tensor:
        """A·V."""
        self.count += V.shape[1]
        return self._operator.matmat(V)


def tolerances(accuracy: float) -> Iterator[float]:
    return (accuracy * factor for factor in (1, 0.3, 0.1, 0.03, 0.01))


def by_hesse(workload: Workload, accuracy: float) -> Attempts:
    def ask(tol: float, seed: int) -> Answer:
        H = hesse.Hessian(workload.func, workload.inputs)
        found = hesse.eigsh(H, K, which="LA", tol=tol, max_products=2000, rng=seed)
        return Answer(found.values.numpy(), found.vectors.mT, found.num_products, found.num_looking)

    for tol in tolerances(accuracy):
        yield f"tol={tol:.0e}", lambda seed, tol=tol: ask(tol, seed)


def by_scipy(workload: Workload, accuracy: float) -> Attempts:
    """ARPACK on the same operator."""

    def ask(tol: float, seed: int) -> Answer:
        H = Counted(hesse.Hessian(workload.func, workload.inputs))
        return arpack(H.to_scipy(), tol, seed, lambda: H.count)

    for tol in tolerances(accuracy):
        yield f"tol={tol:.0e}", lambda seed, tol=tol: ask(tol, seed)


def by_curvlinops(workload: Workload, accuracy: float) -> Attempts:
    """ARPACK on the operator of curvlinops."""
    view = supervised(workload)

    def ask(tol: float, seed: int) -> Answer:
        return arpack(curvlinops.operator(view).to_scipy(), tol, seed)

    for tol in tolerances(accuracy):
        yield f"tol={tol:.0e}", lambda seed, tol=tol: ask(tol, seed)


def arpack(operator: Any, tol: float, seed: int, count: Callable[[], int] = lambda: 0) -> Answer:
    start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(operator.dtype)
    values, vectors = scipy.sparse.linalg.eigsh(operator, K, which="LA", tol=tol, v0=start)
    return Answer(values, torch.from_numpy(vectors.T), count() or None)


def by_pyhessian(workload: Workload, accuracy: float) -> Attempts:
    """Its power iteration: it stops by the change of the eigenvalue, and where that is below rounding by a number."""
    view = supervised(workload)

    def ask(tol: float, iterations: int, seed: int) -> Answer:
        torch.manual_seed(seed)
        values, vectors = pyhessian.keep(view).eigenvalues(maxIter=iterations, tol=tol, top_n=K)
        return Answer(np.array(values), flat_list(vectors))

    # The first are its defaults.
    for tol, iterations in ((1e-3, 100), (1e-4, 1000), (1e-5, 1000), (1e-6, 1000), (1e-7, 10_000)):
        yield f"tol={tol:.0e}, maxIter={iterations}", lambda seed, a=tol, b=iterations: ask(a, b, seed)
    for iterations in (100, 200, 400, 800, 1600, 3200, 6400, 12_800):
        yield f"tol=0, maxIter={iterations}", lambda seed, b=iterations: ask(0.0, b, seed)


def by_eigenthings(workload: Workload, accuracy: float) -> Attempts:
    """Its Lanczos, with as many steps as it takes."""
    from hessian_eigenthings import lanczos

    view = supervised(workload)

    def ask(steps: int, seed: int) -> Answer:
        found = lanczos(hessian_eigenthings.operator(view), k=K, max_iter=steps, tol=accuracy, which="LA", seed=seed)
        return Answer(found.eigenvalues.numpy(), found.eigenvectors, found.iterations)

    # The first is its default. Beyond fifty it would not reorthogonalize unless it were told to.
    for steps in (20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 100, 120, 150, 200, 250, 300):
        yield f"max_iter={steps}", lambda seed, steps=steps: ask(steps, seed)


SOLVERS: dict[str, Callable[[Workload, float], Attempts]] = {
    "hesse": by_hesse,
    "SciPy on hesse's operator": by_scipy,
    "curvlinops + SciPy": by_curvlinops,
    "PyHessian": by_pyhessian,
    "hessian-eigenthings": by_eigenthings,
}
