"""Spectra to draw: an ordinary one, one cut short, and odd ones."""

from __future__ import annotations

import warnings

import numpy as np
import torch

import hesse
from hesse._report.spectrum import Spectrum

from ..solvers.known_matrices import with_eigenvalues

# Like a network's: most eigenvalues near zero, some negative, a few large.
NETWORK = np.concatenate([np.geomspace(1e-6, 1e-1, 150), -np.geomspace(1e-6, 0.3, 60), 1.6 ** np.arange(1, 11)])


def spectrum(values=NETWORK, *, max_products=300, name="digits.py", parts=("trace", "eigenpairs", "density"), **fields):
    """The spectrum of a matrix with those eigenvalues, as the command would find it."""
    A = with_eigenvalues(values, torch.float32)
    n = len(values)
    top, bottom = min(10, n), min(5, max(0, n - 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hesse.ConvergenceWarning)
        questions = {
            "trace": lambda: hesse.trace(A, rng=0, max_products=max_products),
            "eigenpairs": lambda: hesse.eigsh(A, (bottom, top), which="BE", rng=0, max_products=max_products),
            "density": lambda: hesse.spectral_density(A, num_probes=4, num_steps=40, rng=0),
        }
        found = {part: questions[part]() for part in parts}
    words = {
        "problem": name,
        "size": n,
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
        "value": 0.0258171,
        "gradient_norm": 1.5e-3,
        "num_top": top,
        "num_bottom": bottom,
        "seconds": {"evaluation": 0.01, "trace": 1.2, "eigenvalues": 123.4, "density": 5.0},
        "peak_memory": {"process": 512 * 2**20},
    }
    return Spectrum(**(words | found | fields))
