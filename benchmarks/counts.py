"""How many products traces and solves take, beside Hutchinson's estimator and SciPy: counts, which no clock disturbs.

Each count of a trace is a mean over seeds.
"""

import warnings
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

import hesse
from benchmarks.eigensolvers import Counted
from benchmarks.workloads import mlp

INDEX = np.arange(1.0, 1001)
SPECTRA = {
    "1/i": 1 / INDEX,
    "1/i^2": INDEX**-2,
    "0.9^i": 0.9**INDEX,
    "i^-0.5": INDEX**-0.5,
    "uniform on [0, 1]": np.linspace(0, 1, 1000),
    "uniform on [-1, 3]": np.linspace(-1, 3, 1000),
    "ten outliers of a network": np.concatenate([np.linspace(-0.01, 0.01, 990), 2.0 ** np.arange(10)]),
}
SYSTEMS = {
    "condition 1e2": np.linspace(1, 100, 1000),
    "condition 1e4, log-uniform": 10.0 ** np.linspace(0, 4, 1000),
    "three clusters": np.repeat([1.0, 10.0, 100.0], [400, 300, 300]) * (1 + 1e-6 * INDEX),
    "indefinite": np.concatenate([np.linspace(-10, -1, 200), np.linspace(1, 100, 800)]),
    "singular, consistent": np.concatenate([np.zeros(200), np.linspace(1, 100, 800)]),
}
TOLERANCE = 0.01
RESIDUAL = 1e-8
SEEDS = 5


def matrix_of(eigenvalues: Any) -> Tensor:
    """A symmetric matrix, its eigenvectors random."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(eigenvalues), len(eigenvalues))))
    matrix = (turn * eigenvalues) @ turn.T
    return torch.from_numpy(0.5 * (matrix + matrix.T))


def known(eigenvalues: Any) -> tuple[hesse.Operator, float]:
    """A matrix, and its trace."""
    return hesse.as_operator(matrix_of(eigenvalues)), float(np.sum(eigenvalues))


def digits() -> tuple[hesse.Operator, float]:
    """The Hessian of the trained digits network, and its trace by a product with each unit vector."""
    workload = mlp.build_trained_digits()
    H = hesse.Hessian(workload.func, workload.inputs)
    return H, hesse.trace(H, method="exact", max_products=H.shape[0]).estimate


def traces(operator: hesse.Operator, truth: float) -> dict[str, Any]:
    """Mean products, and root mean square error relative to the trace, by method."""
    A = Counted(operator)
    rows = {}
    for method in ("hutchinson", "hutch++", "xtrace", "auto"):
        A.count = 0
        with warnings.catch_warnings():
            # Hutchinson's estimator does not get to one percent on some; the row says how often it did.
            warnings.simplefilter("ignore", hesse.ConvergenceWarning)
            found = [hesse.trace(A, method=method, tol=TOLERANCE, max_products=4000, rng=seed) for seed in range(SEEDS)]
        errors = np.array([each.estimate - truth for each in found]) / truth
        rows[method] = {
            "products": A.count / SEEDS,
            "error": float(np.sqrt(np.mean(errors**2))),
            "converged": sum(each.converged for each in found),
        }
    return rows


def solves(eigenvalues: Any) -> dict[str, Any]:
    """Products to a residual of 1e-8·‖b‖: what SciPy's steps are at that residual, and ours with the true one made."""
    matrix = matrix_of(eigenvalues)
    A = Counted(hesse.as_operator(matrix))
    b = matrix @ torch.from_numpy(np.random.default_rng(1).standard_normal(len(eigenvalues)))
    methods = {"minres": scipy.sparse.linalg.minres}
    if (eigenvalues >= 0).all():
        methods["cg"] = scipy.sparse.linalg.cg
    rows = {}
    for method, theirs in methods.items():
        A.count = 0
        found = hesse.solve(A, b, method=method, tol=RESIDUAL)
        steps: list[float] = []
        theirs(
            matrix.numpy(),
            b.numpy(),
            rtol=1e-14,
            maxiter=3 * A.count + 100,
            callback=lambda x, steps=steps: steps.append(float(np.linalg.norm(b.numpy() - matrix.numpy() @ x))),
        )
        reached = [step for step, residual in enumerate(steps, 1) if residual <= RESIDUAL * float(b.norm())]
        rows[method] = {
            "hesse": A.count,
            "scipy": reached[0] if reached else None,
            "converged": found.converged,
            "residual": float(found.residual_norms[0] / b.norm()),
        }
    return rows


def shifted() -> dict[str, Any]:
    """Products for twenty damping shifts at once, and one by one from zero."""
    A = hesse.as_operator(matrix_of(10.0 ** np.linspace(-4, 2, 1000)))
    b = torch.ones(1000, dtype=torch.float64)
    shifts = [float(shift) for shift in np.logspace(-2, 2, 20)]
    together = hesse.solve_shifted(A, b, shifts, tol=RESIDUAL)
    alone = [hesse.solve(A.shift(shift), b, method="cg", tol=RESIDUAL).num_products for shift in shifts]
    return {"shifts": len(shifts), "together": together.num_products, "one by one": sum(alone)}


def preconditioned() -> dict[str, Any]:
    """Products of a damped system whose large eigenvalues stand out, without and with a Nyström preconditioner."""
    A = hesse.as_operator(matrix_of(np.concatenate([10.0 ** np.linspace(4, 1, 40), np.linspace(0, 0.5, 960)])))
    b = torch.ones(1000, dtype=torch.float64)
    M = hesse.nystrom(A, 80, shift=0.1, rng=0)
    plain, found = (hesse.solve(A.shift(0.1), b, tol=RESIDUAL, preconditioner=P).num_products for P in (None, M))
    return {"plain": plain, "nystrom": found, "rank": M.num_products}
