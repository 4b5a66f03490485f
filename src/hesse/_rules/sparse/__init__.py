"""Sparse matrices: making them of values, reading values from them, and products at their places."""

from hesse._rules.sparse import construction, products

__all__ = ["construction", "products"]
