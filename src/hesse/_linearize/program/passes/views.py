"""Write views as reshapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Private: runs operators outside of the modes that record.
from torch.utils._python_dispatch import _disable_current_modes

from hesse._linearize.program.graph import Graph

aten = torch.ops.aten


def reshape_for_view(graph: Graph) -> Graph:
    """Replace ``view``, which raises where strides do not allow it, by ``reshape``, which copies there.

    Before::

        y = aten.view(x, shape)

    After::

        y = aten.reshape(x, shape)

    Decomposed or batched operators may lay out their results differently from the recorded ones.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default
    graph.recompile()
    return graph


def reshaped(x: Tensor, shape: Sequence[int]) -> Any:
    """The decomposition of ``view`` that copies where strides do not allow a view."""
    if x.is_contiguous():
        return NotImplemented
    try:
        with _disable_current_modes():
            torch.empty_strided(x.shape, x.stride(), device="meta").view(shape)
    except RuntimeError:
        return aten._unsafe_view.default(aten.clone.default(x, memory_format=torch.contiguous_format), shape)
    return NotImplemented
