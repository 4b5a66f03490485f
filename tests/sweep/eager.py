"""Second derivatives of a sweep's cases without hesse: PyTorch's double backward, and finite differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sweep import Case

STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Steps tried in turn: samples of the database lie at values, and near singularities, of every size."""

Product = tuple[Tensor, ...]


def double_backward(case: Case, vector: Sequence[Tensor]) -> Product:
    """The product by two plain calls of ``torch.autograd.grad``."""
    x = case.inputs_to_follow()
    pairs = [
        (entry, weight) for entry, weight in zip(_gradient(case, x, True), vector, strict=True) if entry.requires_grad
    ]
    if not pairs:
        return tuple([torch.zeros_like(leaf) for leaf in x])
    return torch.autograd.grad(
        [entry for entry, _ in pairs],
        x,
        [weight for _, weight in pairs],
        allow_unused=True,
        materialize_grads=True,
    )


def distance_to_finite_differences(case: Case, vector: Sequence[Tensor], product: Product, enough: float) -> float:
    """How far the product is from central differences of the gradient, relative to their size.

    The least over several steps, and the first that is at most ``enough``: a wrong product agrees with none.
    """
    gradient = _gradient(case, case.inputs_to_follow())
    size = max(largest(product), largest(gradient), 1e-6)
    least = float("inf")
    for step in STEPS:
        wide, narrow = _difference(case, vector, step), _difference(case, vector, step / 2)
        differences = [(4 * b - a) / 3 for a, b in zip(wide, narrow, strict=True)]
        least = min(least, largest([a - b for a, b in zip(differences, product, strict=True)]) / size)
        if least <= enough:
            break
    return least


def largest(entries: Sequence[Tensor]) -> float:
    """The largest modulus in a vector; zero when it is empty."""
    return max([float(entry.detach().abs().max()) for entry in entries if entry.numel()], default=0.0)


def _difference(case: Case, vector: Sequence[Tensor], step: float) -> list[Tensor]:
    def gradient_at(shift: float) -> Product:
        moved = [leaf + shift * entry for leaf, entry in zip(case.inputs, vector, strict=True)]
        return _gradient(case, tuple([leaf.requires_grad_() for leaf in moved]))

    return [
        (ahead - behind).detach() / (2 * step)
        for ahead, behind in zip(gradient_at(step), gradient_at(-step), strict=True)
    ]


def _gradient(case: Case, x: tuple[Tensor, ...], create_graph: bool = False) -> Product:
    return torch.autograd.grad(case.func(*x), x, create_graph=create_graph, allow_unused=True, materialize_grads=True)
