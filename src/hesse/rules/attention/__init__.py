"""Attention: the gradient written out, its derivative in blocks, and a rule for each of PyTorch's fused kernels."""

from hesse.rules.attention import cpu

__all__ = ["cpu"]
