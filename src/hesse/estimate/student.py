"""Student's t: how far the mean of a few samples may be from the truth."""

from __future__ import annotations

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
