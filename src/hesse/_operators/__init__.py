"""Matrices known by their products: at a kept point, sums over data, their algebra, dense and SciPy ones."""

from hesse._operators.dense import as_operator
from hesse._operators.empirical_fisher import EmpiricalFisher
from hesse._operators.fisher import Fisher
from hesse._operators.gauss_newton import GaussNewton
from hesse._operators.hessian import Hessian
from hesse._operators.jacobian import Jacobian
from hesse._operators.loss_hessian import LossHessian
from hesse._operators.operator import Identity, Operator
from hesse._operators.sparse_hessian import sparse_hessian

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
    "sparse_hessian",
]
