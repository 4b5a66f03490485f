"""Structures as flat real float64 vectors and back, written apart from ``hesse._base.trees`` so as to judge it.

Flat order: leaves in the order of tuples, lists, dicts and dataclass fields; each leaf in C order; a complex
element counts as its real part followed by its imaginary part.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


def leaves_of(tree: Any) -> list[Tensor]:
    """The tensors of a structure in flat order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [leaf for entry in tree.values() for leaf in leaves_of(entry)]
    if isinstance(tree, tuple | list):
        return [leaf for entry in tree for leaf in leaves_of(entry)]
    return [leaf for field in dataclasses.fields(tree) for leaf in leaves_of(getattr(tree, field.name))]


def rebuilt(tree: Any, leaves: list[Tensor]) -> Any:
    """A structure like ``tree`` that holds ``leaves`` instead of its own."""
    remaining = iter(leaves)

    def rebuild(node: Any) -> Any:
        if isinstance(node, Tensor):
            return next(remaining)
        if isinstance(node, dict):
            return {key: rebuild(entry) for key, entry in node.items()}
        if isinstance(node, tuple | list):
            return type(node)([rebuild(entry) for entry in node])
        return type(node)(**{field.name: rebuild(getattr(node, field.name)) for field in dataclasses.fields(node)})

    return rebuild(tree)


def flat(tree: Any) -> Tensor:
    """A structure as one float64 vector of length n."""
    parts = [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in leaves_of(tree)]
    return torch.cat([part.detach().reshape(-1).double() for part in parts])


def unflat(vector: Tensor, tree: Any, *, double: bool = False) -> Any:
    """A vector of length n as a structure like ``tree``, in its dtypes, or with ``double`` in double precision."""
    leaves, start = [], 0
    for leaf in leaves_of(tree):
        length = leaf.numel() * (2 if leaf.is_complex() else 1)
        part = vector[start : start + length].double()
        start += length
        if leaf.is_complex():
            part = torch.view_as_complex(part.reshape(*leaf.shape, 2))
        part = part.reshape(leaf.shape)
        leaves.append(part.clone() if double else part.to(leaf.dtype, copy=True))
    return rebuilt(tree, leaves)
