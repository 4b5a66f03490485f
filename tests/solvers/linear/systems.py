"""Symmetric systems with known trouble, and their answers from a dense float64 eigendecomposition."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from ..known_matrices import with_eigenvalues


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A matrix made from eigenvalues, in float64."""

    eigenvalues: np.ndarray

    @property
    def definite(self) -> bool:
        """Whether no eigenvalue is negative."""
        return bool((self.eigenvalues >= 0).all())

    @functools.cached_property
    def _double(self) -> Tensor:
        return with_eigenvalues(self.eigenvalues)

    @functools.cached_property
    def _eigenvectors(self) -> np.ndarray:
        return np.linalg.eigh(self._double.numpy())[1]

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A."""
        return self._double.to(dtype)

    def in_range(self, k: int, seed: int = 0) -> Tensor:
        """Right-hand sides of norm about one that have solutions, (n, k)."""
        B = self.matrix() @ self.anything(k, seed)
        return B / B.norm(dim=0).clamp(min=1e-300)

    def anything(self, k: int, seed: int = 0) -> Tensor:
        """Right-hand sides in no special direction, (n, k)."""
        n = len(self.eigenvalues)
        return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, k)))

    def shortest(self, B: Tensor) -> Tensor:
        """The least-squares solutions of minimum length, from the eigenvalues that were put in."""
        known = np.sort(self.eigenvalues)
        inverse = np.divide(1, known, out=np.zeros(len(known)), where=known != 0)
        vectors = self._eigenvectors
        return torch.from_numpy(vectors @ (inverse[:, None] * (vectors.T @ B.numpy())))


SOLVABLE = {
    "one": np.array([3.0]),
    "two": np.array([1.0, 4.0]),
    "spread": np.linspace(1, 100, 300),
    "two thousand": np.linspace(1, 30, 2000),
    "clusters": np.concatenate([1 + 1e-8 * np.arange(100), 50 + 1e-8 * np.arange(100)]),
    "multiple": np.repeat([1.0, 2.0, 5.0], 40),
    "graded": 10.0 ** np.linspace(-2, 2, 150),
    "one tiny": np.concatenate([[1e-9], np.linspace(1, 2, 60)]),
    "indefinite": np.concatenate([np.linspace(-10, -1, 30), np.linspace(1, 50, 170)]),
    "negative definite": -np.linspace(1, 10, 80),
    "plus and minus one": np.repeat([-1.0, 1.0], 25),
    "singular": np.concatenate([np.zeros(40), np.linspace(1, 100, 160)]),
    "singular indefinite": np.concatenate([np.zeros(20), np.linspace(-5, -1, 30), np.linspace(1, 20, 100)]),
}
SYSTEMS = {name: System(values) for name, values in SOLVABLE.items()}
GRADED = System(10.0 ** np.linspace(-12, 12, 100))
SINGULAR = {
    "positive": System(np.concatenate([np.zeros(50), np.linspace(1, 100, 250)])),
    "indefinite": System(np.concatenate([np.zeros(20), np.linspace(-5, -1, 30), np.linspace(1, 20, 100)])),
    "zero": System(np.zeros(5)),
    "one": System(np.zeros(1)),
}
