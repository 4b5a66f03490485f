"""Linear systems with symmetric operators, by algorithms that know only the operator protocol."""

from hesse.linear.jacobi import jacobi
from hesse.linear.nystrom import nystrom
from hesse.linear.solution import Solution
from hesse.linear.solve import solve
from hesse.linear.solve_shifted import ShiftedSolutions, solve_shifted

__all__ = ["ShiftedSolutions", "Solution", "jacobi", "nystrom", "solve", "solve_shifted"]
