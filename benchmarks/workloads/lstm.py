"""A classifier of sequences: PyTorch's own LSTM layer, then a linear one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workloads.base import Workload, of_network


class Classifier(nn.Module):
    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, sequences: Tensor) -> Tensor:
        states, _ = self.lstm(sequences)
        logits: Tensor = self.head(states[:, -1])
        return logits


def jax_twin() -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    from benchmarks.workloads import jax_layers

    def loss(parameters: dict[str, Any], sequences: Any, targets: Any) -> Any:
        recurrent = parameters["lstm.weight_hh_l0"].T
        bias = parameters["lstm.bias_ih_l0"] + parameters["lstm.bias_hh_l0"]

        def step(state: tuple[Any, Any], driven: Any) -> tuple[tuple[Any, Any], None]:
            hidden, cell = state
            in_gate, forget_gate, new, out_gate = jnp.split(driven + hidden @ recurrent, 4, axis=-1)
            cell = jax.nn.sigmoid(forget_gate) * cell + jax.nn.sigmoid(in_gate) * jnp.tanh(new)
            return (jax.nn.sigmoid(out_gate) * jnp.tanh(cell), cell), None

        start = jnp.zeros((sequences.shape[0], recurrent.shape[0]), sequences.dtype)
        # The inputs' share of the gates needs no recurrence: one product for all steps, as in PyTorch.
        driven = sequences @ parameters["lstm.weight_ih_l0"].T + bias
        (hidden, _), _ = jax.lax.scan(step, (start, start), driven.swapaxes(0, 1))
        return jax_layers.cross_entropy(jax_layers.linear(parameters, "head", hidden), targets)

    return loss


def build(dtype: torch.dtype = torch.float32, quick: bool = False) -> Workload:
    features, width, length, batch = (3, 4, 3, 2) if quick else (64, 128, 32, 32)
    torch.manual_seed(0)
    sequences, targets = torch.randn(batch, length, features), torch.randint(10, (batch,))
    first, inner = features, width
    return of_network(
        "lstm",
        f"LSTM, width {width}, T {length}, batch {batch}",
        Classifier(features, width),
        nn.CrossEntropyLoss(),
        (sequences, targets),
        dtype,
        jax_twin=jax_twin,
        # The layer's two matrices by hand: the one on the data costs 4 and 2, the recurrent one 9 and 6.
        counted_ratio=(4 * first + 9 * inner) / (2 * first + 6 * inner),
    )
