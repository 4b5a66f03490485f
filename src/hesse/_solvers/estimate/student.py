"""Student's t: how far the mean of a few samples may be from the truth."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

# Of the skewness of n samples, n²/(n² + HIDDEN) shows: so the interval of twenty to a hundred squares of normal
# numbers, the most skewed there are, covers in 94 to 96 of 100 cases, where it would in 90 to 96.
HIDDEN = 200


def deviation(samples: ArrayLike) -> NDArray[np.float64]:
    """The standard deviation of samples along the first axis, at least two, whatever their size."""
    samples = np.asarray(samples, dtype=np.float64)
    _, exponents = np.frexp(np.abs(samples).max(axis=0))
    return np.asarray(np.ldexp(np.ldexp(samples, -exponents).std(axis=0, ddof=1), exponents))


def standard_error(samples: ArrayLike) -> NDArray[np.float64]:
    """The standard error of the mean of samples along the first axis; at least two of them."""
    return np.asarray(deviation(samples) / np.sqrt(len(np.asarray(samples))))


def quantile(confidence: float, count: int) -> float:
    """How many standard errors the interval of that confidence reaches to each side, for ``count`` samples."""
    return float(scipy.special.stdtrit(count - 1, 0.5 + 0.5 * confidence))


def reach(samples: ArrayLike, confidence: float, *, hidden: float = 0.0) -> NDArray[np.float64]:
    """How far the interval of the mean reaches to each side, for at least two samples; wider where they are skewed.

    For skewness g the quantiles of the studentized mean lie g·(2t² + 1)/(6·√n) off Student's t, on one side nearer and
    on the other farther; the farther one is taken for both.

    Args:
        samples: along the first axis.
        confidence: between 0 and 1.
        hidden: what they do not show of their skewness, relative to what they show.

    Source: Hall, "On the removal of skewness by transformation", J. R. Statist. Soc. B 54 (1992) 221–228, equation 1.1.
    """
    samples = np.asarray(samples, dtype=np.float64)
    n, error = len(samples), standard_error(samples)
    t, distances = quantile(confidence, n), samples - samples.mean(axis=0)
    standardized = np.divide(distances, error * math.sqrt(n - 1), out=np.zeros_like(samples), where=error > 0)
    skewness = np.abs(np.mean(standardized**3, axis=0)) * (1 + hidden)
    return np.asarray(error * (t + skewness * (2 * t**2 + 1) / (6 * math.sqrt(n))))
