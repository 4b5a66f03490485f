"""Eigenvalues and eigenvectors, by algorithms that know only the operator protocol."""

from hesse.eigen.eigsh import Eigenpairs, eigsh

__all__ = ["Eigenpairs", "eigsh"]
