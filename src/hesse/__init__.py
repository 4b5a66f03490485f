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
    from hesse._checking import Check, Finding, check
    from hesse._linearize.choice import Choice
    from hesse._linearize.clear_saved_programs import clear_saved_programs
    from hesse._operators import (
        EmpiricalFisher,
        Fisher,
        GaussNewton,
        Hessian,
        Identity,
        Jacobian,
        LossHessian,
        Operator,
        as_operator,
        sparse_hessian,
    )
    from hesse._operators.problem import Problem
    from hesse._report.plot import plot
    from hesse._solvers.checkpoint import Checkpoint
    from hesse._solvers.eigen import Eigenpairs, eigsh
    from hesse._solvers.estimate import (
        DiagonalEstimate,
        NormEstimate,
        SpectralDensity,
        TraceEstimate,
        TraceOfEstimate,
        diagonal,
        frobenius_norm,
        logdet,
        spectral_density,
        trace,
        trace_of,
    )
    from hesse._solvers.linear import (
        Factorization,
        ShiftedSolutions,
        Solution,
        factorize,
        jacobi,
        nystrom,
        solve,
        solve_shifted,
    )
    from hesse._solvers.minimize import Minimum, ScipyFunctions, minimize, scipy_functions
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
