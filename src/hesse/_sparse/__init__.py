"""Sparse matrices of second derivatives: patterns, colorings, and entries read from a few products."""
