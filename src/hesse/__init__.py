"""Exact products with Hessians of any PyTorch program, and the answers people compute them for."""

from hesse import functional
from hesse.functional import hvp, vhp

__all__ = ["functional", "hvp", "vhp"]
