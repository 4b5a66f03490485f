"""Matrices known by their products: at a kept point, sums over data, their algebra, dense and SciPy ones."""
