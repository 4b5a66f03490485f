"""Eigenvalues and eigenvectors, by algorithms that know only the operator protocol."""

from hesse._solvers.eigen.eigenpairs import Eigenpairs
from hesse._solvers.eigen.eigsh import eigsh

__all__ = ["Eigenpairs", "eigsh"]
