"""Matrices known by their products: Hessians and Jacobians at a kept point, their algebra, dense and SciPy ones."""

from hesse.operators.algebra import Identity
from hesse.operators.dense import as_operator
from hesse.operators.hessian import Hessian
from hesse.operators.jacobian import Jacobian
from hesse.operators.operator import Operator

__all__ = ["Hessian", "Identity", "Jacobian", "Operator", "as_operator"]
