"""Student's t: how far the mean of a few samples may be from the truth."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


def standard_error(samples: ArrayLike) -> NDArray[np.float64]:
    """The standard error of the mean of samples along the first axis; at least two of them."""
    samples = np.asarray(samples, dtype=np.float64)
    return np.asarray(samples.std(axis=0, ddof=1) / np.sqrt(len(samples)))


def quantile(confidence: float, count: int) -> float:
    """How many standard errors the interval of that confidence reaches to each side, for ``count`` samples."""
    return float(stdtrit(count - 1, 0.5 + 0.5 * confidence))


def reach(samples: ArrayLike, confidence: float) -> float:
    """How far the interval of the mean reaches to each side, for at least three samples; wider where they are skewed.

    For skewness g the quantiles of the studentized mean lie g·(2t² + 1)/(6·√n) off Student's t, on one side nearer and
    on the other farther; the farther one is taken for both.

    Source: Hall, "On the removal of skewness by transformation", J. R. Statist. Soc. B 54 (1992) 221–228, equation 1.1.
    """
    samples = np.asarray(samples, dtype=np.float64)
    t, error = quantile(confidence, len(samples)), float(standard_error(samples))
    if not error > 0:
        return 0.0
    skewness = float(np.mean((samples - samples.mean()) ** 3)) / float(samples.std()) ** 3
    return error * (t + abs(skewness) * (2 * t**2 + 1) / (6 * math.sqrt(len(samples))))
