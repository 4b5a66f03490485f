"""Linear systems with symmetric operators, by algorithms that know only the operator protocol."""

from hesse._solvers.linear.factorization import Factorization, factorize
from hesse._solvers.linear.jacobi import jacobi
from hesse._solvers.linear.nystrom import nystrom
from hesse._solvers.linear.solution import Solution
from hesse._solvers.linear.solve import solve
from hesse._solvers.linear.solve_shifted import ShiftedSolutions, solve_shifted

__all__ = ["Factorization", "ShiftedSolutions", "Solution", "factorize", "jacobi", "nystrom", "solve", "solve_shifted"]
