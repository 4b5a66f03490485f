"""Whether a function's second derivatives can be had and trusted, asked before anything large is started."""

from hesse.checking.check import check
from hesse.checking.finding import Finding
from hesse.checking.result import Check

__all__ = ["Check", "Finding", "check"]
