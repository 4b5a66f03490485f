"""Estimates from random probe vectors, by algorithms that know only the operator protocol."""

from hesse.estimate.diagonal import DiagonalEstimate, diagonal
from hesse.estimate.frobenius_norm import NormEstimate, frobenius_norm
from hesse.estimate.logdet import logdet
from hesse.estimate.spectral_density import SpectralDensity, spectral_density
from hesse.estimate.spectral_sum import TraceOfEstimate
from hesse.estimate.trace import TraceEstimate, trace
from hesse.estimate.trace_of import trace_of

__all__ = [
    "DiagonalEstimate",
    "NormEstimate",
    "SpectralDensity",
    "TraceEstimate",
    "TraceOfEstimate",
    "diagonal",
    "frobenius_norm",
    "logdet",
    "spectral_density",
    "trace",
    "trace_of",
]
