"""Small models and data in float64 for tests of operators over data."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROWS = 10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(make: type[nn.Module], *arguments: object) -> nn.Module:
    """A model in float64, the same each time, with the user's generator left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*arguments).double()


def mlp() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


X = inputs(ROWS, 4)
CLASSES = torch.randint(3, (ROWS,), generator=generator(1))
REAL = inputs(ROWS, 3, seed=2)
BITS = torch.randint(2, (ROWS, 3), generator=generator(3)).double()


EVEN = 5
"""A batch size that divides the rows: one layout, and so half as many programs to capture."""


def loader(*tensors: Tensor, batch_size: int = 4) -> DataLoader:
    """Batches of 4, 4 and a ragged 2."""
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size)


class Tied(nn.Module):
    """An autoencoder-like language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.middle = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(tokens))))


class WithUnused(nn.Module):
    """A model with a layer that its forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).tanh()
