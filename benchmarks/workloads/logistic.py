"""Logistic regression: two products with one tall matrix."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.workloads.base import Workload, of_network


def jax_twin() -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    def loss(parameters: dict[str, Any], features: Any, targets: Any) -> Any:
        logits = features @ parameters["weight"].T + parameters["bias"]
        return (jax.nn.softplus(logits) - jnp.multiply(targets, logits)).mean()

    return loss


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    num_samples, num_features = (50, 4) if quick else (100_000, 100)
    torch.manual_seed(0)
    features = torch.randn(num_samples, num_features)
    targets = torch.rand(num_samples, 1).round()
    return of_network(
        "logistic",
        f"Logistic regression, {num_samples} x {num_features}",
        nn.Linear(num_features, 1),
        nn.BCEWithLogitsLoss(),
        (features, targets),
        dtype,
        jax_twin=jax_twin,
    )
