"""Exact products with Hessians of any PyTorch program, and the answers people compute them for."""

from hesse import func, functional
from hesse.errors import ClosedError, StalePointError
from hesse.functional import hvp, vhp
from hesse.operators import Hessian, Identity, Jacobian, Operator, as_operator
from hesse.problem import Problem

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "Hessian",
    "Identity",
    "Jacobian",
    "Operator",
    "Problem",
    "StalePointError",
    "as_operator",
    "func",
    "functional",
    "hvp",
    "vhp",
]
