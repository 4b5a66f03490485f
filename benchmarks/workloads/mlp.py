"""Two multilayer perceptrons: a large one on random images, a small one on scikit-learn's digits."""

import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workloads.base import Workload, of_network

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.py"


def perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def jax_twin() -> Callable[..., Any]:
    import jax.numpy as jnp

    from benchmarks.workloads import jax_layers

    def loss(parameters: dict[str, Any], features: Any, targets: Any) -> Any:
        *hidden, last = sorted({key.split(".")[0] for key in parameters}, key=int)
        x = features
        for layer in hidden:
            x = jnp.tanh(jax_layers.linear(parameters, layer, x))
        return jax_layers.cross_entropy(jax_layers.linear(parameters, last, x), targets)

    return loss


def digits() -> tuple[Tensor, Tensor]:
    """The 1797 images of 8 x 8 pixels that scikit-learn ships, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.data).float() / 16, torch.from_numpy(bunch.target)


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    widths, batch = ((6, 5, 5, 3), 8) if quick else ((784, 512, 512, 10), 256)
    torch.manual_seed(0)
    features, targets = torch.randn(batch, widths[0]), torch.randint(widths[-1], (batch,))
    title = f"MLP {'-'.join(map(str, widths))}, batch {batch}"
    return of_network(
        "mlp",
        title,
        perceptron(*widths),
        nn.CrossEntropyLoss(),
        (features, targets),
        dtype,
        jax_twin=jax_twin,
    )


def build_trained_digits(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    """The network of examples/digits.py, where fifty steps of Adam lead it."""
    example = runpy.run_path(str(EXAMPLE))
    features, targets = digits()
    model = example["train"](features, targets, steps=5 if quick else 50)
    batch = 64 if quick else len(features)
    return of_network(
        "digits-trained",
        f"Digits, trained, {sum(parameter.numel() for parameter in model.parameters())} parameters",
        model,
        nn.CrossEntropyLoss(),
        (features[:batch], targets[:batch]),
        dtype,
        jax_twin=jax_twin,
    )


def build_digits(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    torch.manual_seed(0)
    features, targets = digits()
    batch = 16 if quick else len(features)
    model = perceptron(64, 4, 4, 10) if quick else perceptron(64, 64, 64, 10)
    return of_network(
        "digits",
        f"Digits, {sum(parameter.numel() for parameter in model.parameters())} parameters",
        model,
        nn.CrossEntropyLoss(),
        (features[:batch], targets[:batch]),
        dtype,
        jax_twin=jax_twin,
    )
