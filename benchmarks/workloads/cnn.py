"""A small convolutional network with GroupNorm and SiLU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.workloads.base import Workload, of_network

GROUPS = 8


def network(width: int, activation: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, stride=stride, padding=1),
            nn.GroupNorm(GROUPS, after),
            activation(),
        ]

    return nn.Sequential(
        *block(3, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 2 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def jax_twin() -> Callable[..., Any]:
    import jax

    from benchmarks.workloads import jax_layers

    def loss(parameters: dict[str, Any], images: Any, targets: Any) -> Any:
        x = images
        for convolution, norm, stride in (("0", "1", 1), ("3", "4", 2), ("6", "7", 2)):
            bias = parameters[f"{convolution}.bias"][:, None, None]
            x = jax_layers.convolution(parameters[f"{convolution}.weight"], x, stride) + bias
            x = jax.nn.silu(jax_layers.group_norm(parameters, norm, x, GROUPS))
        return jax_layers.cross_entropy(jax_layers.linear(parameters, "11", x.mean((2, 3))), targets)

    return loss


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    width, batch, pixels = (8, 2, 8) if quick else (32, 32, 32)
    torch.manual_seed(0)
    images, targets = torch.randn(batch, 3, pixels, pixels), torch.randint(10, (batch,))
    return of_network(
        "cnn",
        f"CNN with GroupNorm and SiLU, batch {batch}",
        network(width),
        nn.CrossEntropyLoss(),
        (images, targets),
        dtype,
        jax_twin=jax_twin,
    )
