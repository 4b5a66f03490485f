"""Minimizers that follow products with Hessians and Jacobians."""

from hesse._solvers.minimize.minimize import minimize
from hesse._solvers.minimize.minimum import Minimum
from hesse._solvers.minimize.scipy_functions import ScipyFunctions, scipy_functions

__all__ = ["Minimum", "ScipyFunctions", "minimize", "scipy_functions"]
