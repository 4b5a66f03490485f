"""What a workload is: a scalar function, a point, vectors, and other views of the same for the peers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

NUM_VECTORS = 16

Inputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Supervised:
    """The same function as a network, a loss and one batch, for peers that take nothing else."""

    model: nn.Module
    loss: nn.Module
    batch: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """A scalar function at a point, with the vectors its Hessian is multiplied by.

    `inputs` is one tensor or a dictionary of tensors, given to `func` as one argument.
    `rows` holds the vectors, one flat vector a row: shape (NUM_VECTORS, n).
    `jax_twin()` returns the same function for JAX, called as `twin(inputs, *jax_data)`.
    `counted_ratio` is the matrix-multiplication work of a lone product divided by that of a replay.
    """

    name: str
    title: str
    func: Callable[[Any], Tensor]
    inputs: Inputs
    rows: Tensor
    supervised: Supervised | None = None
    jax_twin: Callable[[], Callable[..., Any]] | None = None
    jax_data: tuple[Any, ...] = ()
    counted_ratio: float | None = None

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(self.inputs.values()) if isinstance(self.inputs, dict) else (self.inputs,)

    @property
    def num_inputs(self) -> int:
        return sum(leaf.numel() for leaf in self.leaves)

    def rebuild(self, leaves: tuple[Any, ...]) -> Any:
        """The leaves, in order, in the structure of `inputs`."""
        return dict(zip(self.inputs, leaves, strict=True)) if isinstance(self.inputs, dict) else leaves[0]

    def leaves_of(self, structure: Any) -> tuple[Any, ...]:
        """The leaves of something structured like `inputs`, in the order of `inputs`.

        The order is taken from `inputs` because JAX returns dictionaries with their keys sorted.
        """
        return tuple(structure[key] for key in self.inputs) if isinstance(self.inputs, dict) else (structure,)

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Vectors of shape (..., n) as contiguous leaves of shape (..., *leaf.shape)."""
        pieces = flat.split([leaf.numel() for leaf in self.leaves], dim=-1)
        return tuple(
            piece.reshape(*flat.shape[:-1], *leaf.shape).contiguous()
            for piece, leaf in zip(pieces, self.leaves, strict=True)
        )

    def vector(self) -> Any:
        """The first vector, structured like `inputs`."""
        return self.rebuild(self.split(self.rows[0]))

    def on_leaves(self, *leaves: Tensor) -> Tensor:
        """`func` of its leaves as separate arguments, for interfaces that take only tensors."""
        return self.func(self.rebuild(leaves))


def draw_rows(num_inputs: int, dtype: torch.dtype) -> Tensor:
    """Vectors drawn in float32 and then cast, so that every dtype gets the same numbers."""
    generator = torch.Generator().manual_seed(16)
    return torch.randn(NUM_VECTORS, num_inputs, generator=generator).to(dtype)


def of_network(
    name: str,
    title: str,
    model: nn.Module,
    loss: nn.Module,
    batch: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    **views: Any,
) -> Workload:
    """A workload from a network drawn in float32, a loss and one batch; the inputs are the parameters.

    JAX's data are the batch, followed by what `jax_data` adds.
    """
    model = model.to(dtype).eval()
    features = batch[0].to(dtype) if batch[0].is_floating_point() else batch[0]
    targets = batch[1].to(dtype) if batch[1].is_floating_point() else batch[1]
    inputs = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}

    def func(parameters: dict[str, Tensor]) -> Tensor:
        value: Tensor = loss(functional_call(model, parameters, (features,)), targets)
        return value

    views.setdefault("counted_ratio", count_matmuls(model, features))
    return Workload(
        name=name,
        title=title,
        func=func,
        inputs=inputs,
        rows=draw_rows(sum(leaf.numel() for leaf in inputs.values()), dtype),
        supervised=Supervised(model, loss, (features, targets)),
        jax_data=(features, targets, *views.pop("jax_data", ())),
        **views,
    )


def count_matmuls(model: nn.Module, features: Tensor) -> float:
    """Multiplications of a lone product divided by those of a replay, over linear and convolution layers.

    A layer whose input depends on parameters costs 9 products of matrices in a lone call (1 forward,
    2 backward, 2 and 4 for their tangents), of which a replay repeats the last 6. A layer that reads
    the data directly costs 4 and 2.
    """
    lone = replay = 0

    def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal lone, replay
        weight: Tensor = layer.weight  # type: ignore[assignment]  # a layer's attribute has any type
        multiplications = weight.numel() // weight.shape[0] * output.numel()
        inner = args[0].requires_grad
        lone += (9 if inner else 4) * multiplications
        replay += (6 if inner else 2) * multiplications

    hooks: list[RemovableHandle] = [
        layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    model(features)
    for hook in hooks:
        hook.remove()
    return lone / replay
