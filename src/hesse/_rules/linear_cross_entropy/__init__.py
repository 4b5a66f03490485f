"""A linear layer with cross entropy over a large vocabulary, in chunks of rows."""

from hesse._rules.linear_cross_entropy import operators

__all__ = ["operators"]
