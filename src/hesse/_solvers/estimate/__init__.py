"""Estimates from random probe vectors, by algorithms that know only the operator protocol."""

from hesse._solvers.estimate.diagonal import DiagonalEstimate, diagonal
from hesse._solvers.estimate.frobenius_norm import NormEstimate, frobenius_norm
from hesse._solvers.estimate.logdet import logdet
from hesse._solvers.estimate.spectral_density import SpectralDensity, spectral_density
from hesse._solvers.estimate.spectral_sum import TraceOfEstimate
from hesse._solvers.estimate.trace import TraceEstimate, trace
from hesse._solvers.estimate.trace_of import trace_of

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
