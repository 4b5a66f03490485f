"""Matrices known by their products: at a kept point, sums over data, their algebra, dense and SciPy ones."""

from hesse.operators.algebra import Identity
from hesse.operators.dense import as_operator
from hesse.operators.empirical_fisher import EmpiricalFisher
from hesse.operators.fisher import Fisher
from hesse.operators.gauss_newton import GaussNewton
from hesse.operators.hessian import Hessian
from hesse.operators.jacobian import Jacobian
from hesse.operators.loss_hessian import LossHessian
from hesse.operators.operator import Operator

__all__ = [
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "Identity",
    "Jacobian",
    "LossHessian",
    "Operator",
    "as_operator",
]
