"""The autograd graph above tensors, node by node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge


class Edge(GradientEdge):
    """The place of a plain tensor in a graph, which keeps no values.

    Attributes:
        shape, dtype: of that tensor.
    """

    shape: torch.Size
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Edge:
        """That of a tensor that requires gradients."""
        edge = Edge(*get_gradient_edge(tensor))
        edge.shape, edge.dtype = tensor.shape, tensor.dtype
        return edge


_ACCUMULATION = type(get_gradient_edge(torch.ones(1, requires_grad=True, device="cpu")).node)


def name_of(node: Any) -> str:
    """The name of a node; a custom function may have an attribute in the method's place."""
    name: str = type(node).name(node)
    return name


def nodes(roots: Iterable[Tensor | Node], until: Iterable[Node] = ()) -> list[Node]:
    """Every node that a backward from ``roots``, tensors or nodes, can reach, once; none beyond those in ``until``."""
    ends = frozenset(until)
    starts = [root.grad_fn if isinstance(root, Tensor) else root for root in roots]
    found = list(dict.fromkeys([start for start in starts if start is not None]))
    seen = set(found)
    for node in found:
        if node in ends:
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                found.append(following)
    return found


def is_accumulation(node: Node) -> bool:
    """Whether a node stands for a leaf."""
    return type(node) is _ACCUMULATION


def leaves(roots: Iterable[Tensor | Node]) -> list[Tensor]:
    """Every leaf that a backward from ``roots`` can reach, once."""
    return leaves_of(nodes(roots))


def leaves_of(found: Iterable[Node]) -> list[Tensor]:
    """The leaves that nodes stand for."""
    return [node.variable for node in found if type(node) is _ACCUMULATION]  # type: ignore[attr-defined]  # it has
