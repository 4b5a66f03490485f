"""Random numbers that are the same each time, and do not advance the user's generators."""

from __future__ import annotations

import torch
from torch import Tensor


def fixed_generator(device: torch.device) -> torch.Generator:
    """A new generator with a fixed seed."""
    return torch.Generator(device).manual_seed(0)


def random_like(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers in the shape, dtype and device of ``tensor``, by default the same at each call."""
    generator = generator or fixed_generator(tensor.device)
    drawn = torch.randn(tensor.shape, dtype=tensor.dtype, device=generator.device, generator=generator)
    return drawn.to(tensor.device)
