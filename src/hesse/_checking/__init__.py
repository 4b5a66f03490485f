"""Whether a function's second derivatives can be had and trusted, asked before anything large is started."""

from hesse._checking.check import check
from hesse._checking.finding import Finding
from hesse._checking.result import Check

__all__ = ["Check", "Finding", "check"]
