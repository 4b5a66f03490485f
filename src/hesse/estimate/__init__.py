"""Estimates from random probe vectors, by algorithms that know only the operator protocol."""

from hesse.estimate.spectral_density import SpectralDensity, spectral_density
from hesse.estimate.trace import TraceEstimate, trace

__all__ = ["SpectralDensity", "TraceEstimate", "spectral_density", "trace"]
