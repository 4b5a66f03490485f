"""Samples for operators whose samples in the database finite differences cannot judge, each with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .sweep import Case


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def wavy(y: Tensor) -> Tensor:
    """The sine of a sum in which every entry counts differently."""
    return (y * torch.arange(1.0, y.numel() + 1, dtype=y.dtype).reshape(y.shape)).sum().sin()


def power_of_a_positive_number(_: Case) -> Case:
    """The database raises negative numbers to powers, or large ones to large powers."""
    return Case(lambda x: wavy(2.5**x), (draw(4),))


def erfcx_near_zero(_: Case) -> Case:
    """The database takes points where derivatives are 1e18, inside of a sine."""
    return Case(lambda x: wavy(torch.special.erfcx(x)), (draw(4),))


def bessel(function: Callable[[Tensor], Tensor]) -> Callable[[Case], Case]:
    """The database takes points around 5, where PyTorch's values have six digits."""
    return lambda _: Case(lambda x: wavy(function(x)), (draw(4),))


def unpooled_from_places_that_differ(_: Case) -> Case:
    """The database's indices may repeat, so that one value overwrites another."""
    indices = F.max_pool3d(draw(1, 2, 4, 4, 4), 2, return_indices=True)[1]
    return Case(lambda x: wavy(F.max_unpool3d(x, indices, 2)), (draw(1, 2, 2, 2, 2),))


def with_constant_labels(case: Case) -> Case:
    """The database differentiates by the labels too, the last input, which the loss only compares with 1."""
    *rest, labels = case.inputs
    return replace(case, func=lambda *x: case.func(*x, labels), inputs=tuple(rest))


OWN_SAMPLES: dict[str, Callable[[Case], Case]] = {
    "__rpow__": power_of_a_positive_number,
    "nn_functional_cosine_embedding_loss": with_constant_labels,
    "nn_functional_hinge_embedding_loss": with_constant_labels,
    "nn_functional_max_unpool3d": unpooled_from_places_that_differ,
    "special_bessel_j0": bessel(torch.special.bessel_j0),
    "special_bessel_j1": bessel(torch.special.bessel_j1),
    "special_erfcx": erfcx_near_zero,
}
"""What is judged instead of the database's first sample."""


def scattered(_: Case) -> tuple[Case, Case]:
    """PyTorch's gradient by the tensor is wrong, so that differences of it say nothing; judged by indexing."""
    inputs = draw(3, 3), draw(2, 2)
    places = torch.tensor([1, 4, 2, 5])

    def by_index(x: Tensor, source: Tensor) -> Tensor:
        return wavy(x.flatten().index_put((places,), source.flatten()))

    func = lambda x, source: wavy(torch.as_strided_scatter(x, source, (2, 2), (1, 3), 1).flatten())  # noqa: E731  # a function in one line
    return Case(func, inputs), Case(by_index, inputs)


REWRITTEN: dict[str, Callable[[Case], tuple[Case, Case]]] = {"as_strided_scatter": scattered}
"""A sample, and the same function in other operations, whose gradient's differences judge."""
