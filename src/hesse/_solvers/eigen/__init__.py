"""Eigenvalues and eigenvectors, by algorithms that know only the operator protocol."""
