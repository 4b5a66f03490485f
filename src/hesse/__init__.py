"""Exact products with Hessians of any PyTorch program, and the answers people compute them for."""

from hesse import func, functional
from hesse.checking import Check, Finding, check
from hesse.eigen import Eigenpairs, eigsh
from hesse.errors import ClosedError, ConvergenceWarning, NoDerivativeError, NonFiniteProductError, StalePointError
from hesse.estimate import SpectralDensity, TraceEstimate, spectral_density, trace
from hesse.functional import hvp, vhp
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
    "Check",
    "ClosedError",
    "ConvergenceWarning",
    "Eigenpairs",
    "EmpiricalFisher",
    "Finding",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Identity",
    "Jacobian",
    "LossHessian",
    "NoDerivativeError",
    "NonFiniteProductError",
    "Operator",
    "Problem",
    "Progress",
    "SpectralDensity",
    "StalePointError",
    "TraceEstimate",
    "as_operator",
    "check",
    "eigsh",
    "func",
    "functional",
    "hvp",
    "spectral_density",
    "trace",
    "vhp",
]
