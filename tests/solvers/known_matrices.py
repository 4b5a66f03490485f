"""Symmetric matrices whose eigenvalues are known because they were made from them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def with_eigenvalues(values, dtype=torch.float64, seed=0) -> Tensor:
    """Q·diag(values)·Qᵀ for a random orthogonal Q."""
    values = np.asarray(values, dtype=np.float64)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    matrix = (turn * values) @ turn.T
    return torch.from_numpy(0.5 * (matrix + matrix.T)).to(dtype)
