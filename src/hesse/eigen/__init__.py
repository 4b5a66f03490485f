"""Eigenvalues and eigenvectors, by algorithms that know only the operator protocol."""

from hesse.eigen.eigenpairs import Eigenpairs
from hesse.eigen.eigsh import eigsh

__all__ = ["Eigenpairs", "eigsh"]
