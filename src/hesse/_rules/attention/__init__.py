"""Attention: the gradient written out, its derivative in blocks, and rules for PyTorch's fused kernels."""

from hesse._rules.attention import kernels

__all__ = ["kernels"]
