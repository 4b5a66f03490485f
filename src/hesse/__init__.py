"""Exact products with Hessians of any PyTorch program, and the answers people compute them for."""

import gc as _gc

# A full collection goes over everything that PyTorch has loaded, finds nothing, and takes as long as loading hesse.
_collects = _gc.isenabled()
_gc.disable()
try:
    from hesse import func, functional
    from hesse._base.errors import (
        CaptureError,
        CheckpointError,
        CheckpointWarning,
        ClosedError,
        ConvergenceWarning,
        MemoryBudgetError,
        NoDerivativeError,
        NonFiniteProductError,
        StalePointError,
    )
    from hesse._base.pages import keep_memory
    from hesse._base.version import __version__ as __version__
    from hesse._checking.check import check
    from hesse._checking.finding import Finding
    from hesse._checking.result import Check
    from hesse._linearize.choice import Choice
    from hesse._linearize.clear_saved_programs import clear_saved_programs
    from hesse._operators.dense import as_operator
    from hesse._operators.empirical_fisher import EmpiricalFisher
    from hesse._operators.fisher import Fisher
    from hesse._operators.gauss_newton import GaussNewton
    from hesse._operators.hessian import Hessian
    from hesse._operators.jacobian import Jacobian
    from hesse._operators.loss_hessian import LossHessian
    from hesse._operators.operator import Identity, Operator
    from hesse._operators.problem import Problem
    from hesse._operators.sparse_hessian import sparse_hessian
    from hesse._report.plot import plot
    from hesse._solvers.checkpoint import Checkpoint
    from hesse._solvers.eigen.eigenpairs import Eigenpairs
    from hesse._solvers.eigen.eigsh import eigsh
    from hesse._solvers.estimate.diagonal import DiagonalEstimate, diagonal
    from hesse._solvers.estimate.frobenius_norm import NormEstimate, frobenius_norm
    from hesse._solvers.estimate.logdet import logdet
    from hesse._solvers.estimate.spectral_density import SpectralDensity, spectral_density
    from hesse._solvers.estimate.spectral_sum import TraceOfEstimate
    from hesse._solvers.estimate.trace import TraceEstimate, trace
    from hesse._solvers.estimate.trace_of import trace_of
    from hesse._solvers.linear.factorization import Factorization, factorize
    from hesse._solvers.linear.jacobi import jacobi
    from hesse._solvers.linear.nystrom import nystrom
    from hesse._solvers.linear.solution import Solution
    from hesse._solvers.linear.solve import solve
    from hesse._solvers.linear.solve_shifted import ShiftedSolutions, solve_shifted
    from hesse._solvers.minimize.minimize import minimize
    from hesse._solvers.minimize.minimum import Minimum
    from hesse._solvers.minimize.scipy_functions import ScipyFunctions, scipy_functions
    from hesse._solvers.run import Progress
    from hesse._sparse.to_scipy import to_scipy
    from hesse.functional import hvp, vhp
finally:
    if _collects:
        _gc.enable()

__all__ = [
    "CaptureError",
    "Check",
    "Checkpoint",
    "CheckpointError",
    "CheckpointWarning",
    "Choice",
    "ClosedError",
    "ConvergenceWarning",
    "DiagonalEstimate",
    "Eigenpairs",
    "EmpiricalFisher",
    "Factorization",
    "Finding",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Identity",
    "Jacobian",
    "LossHessian",
    "MemoryBudgetError",
    "Minimum",
    "NoDerivativeError",
    "NonFiniteProductError",
    "NormEstimate",
    "Operator",
    "Problem",
    "Progress",
    "ScipyFunctions",
    "ShiftedSolutions",
    "Solution",
    "SpectralDensity",
    "StalePointError",
    "TraceEstimate",
    "TraceOfEstimate",
    "as_operator",
    "check",
    "clear_saved_programs",
    "diagonal",
    "eigsh",
    "factorize",
    "frobenius_norm",
    "func",
    "functional",
    "hvp",
    "jacobi",
    "keep_memory",
    "logdet",
    "minimize",
    "nystrom",
    "plot",
    "scipy_functions",
    "solve",
    "solve_shifted",
    "sparse_hessian",
    "spectral_density",
    "to_scipy",
    "trace",
    "trace_of",
    "vhp",
]
