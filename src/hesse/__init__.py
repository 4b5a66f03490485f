"""Exact products with Hessians of any PyTorch program, and the answers people compute them for."""

from hesse import func, functional
from hesse.checking import Check, Finding, check
from hesse.checkpoint import Checkpoint
from hesse.eigen import Eigenpairs, eigsh
from hesse.engines.choice import Choice
from hesse.errors import (
    CaptureError,
    CheckpointError,
    ClosedError,
    ConvergenceWarning,
    MemoryBudgetError,
    NoDerivativeError,
    NonFiniteProductError,
    StalePointError,
)
from hesse.estimate import (
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
from hesse.functional import hvp, vhp
from hesse.linear import ShiftedSolutions, Solution, jacobi, nystrom, solve, solve_shifted
from hesse.operators import (
    EmpiricalFisher,
    Fisher,
    GaussNewton,
    Hessian,
    Identity,
    Jacobian,
    LossHessian,
    Operator,
    as_operator,
)
from hesse.problem import Problem
from hesse.products import Progress

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "Check",
    "Checkpoint",
    "CheckpointError",
    "Choice",
    "ClosedError",
    "ConvergenceWarning",
    "DiagonalEstimate",
    "Eigenpairs",
    "EmpiricalFisher",
    "Finding",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Identity",
    "Jacobian",
    "LossHessian",
    "MemoryBudgetError",
    "NoDerivativeError",
    "NonFiniteProductError",
    "NormEstimate",
    "Operator",
    "Problem",
    "Progress",
    "ShiftedSolutions",
    "Solution",
    "SpectralDensity",
    "StalePointError",
    "TraceEstimate",
    "TraceOfEstimate",
    "as_operator",
    "check",
    "diagonal",
    "eigsh",
    "frobenius_norm",
    "func",
    "functional",
    "hvp",
    "jacobi",
    "logdet",
    "nystrom",
    "solve",
    "solve_shifted",
    "spectral_density",
    "trace",
    "trace_of",
    "vhp",
]
