"""Products of matrices in a captured graph, by oneDNN where that is faster than what PyTorch calls."""

from __future__ import annotations

import torch
from torch import Tensor

from hesse._base import onednn
from hesse._linearize.program.capture import Graph

aten = torch.ops.aten

# An operator of our own: Inductor knows PyTorch's by name, and would copy what is transposed before it calls it.
_library = torch.library.Library("hesse", "FRAGMENT")  # type: ignore[no-untyped-call]  # no types there
_library.define("mm(Tensor a, Tensor b) -> Tensor")  # type: ignore[no-untyped-call]  # as above
_library.impl("mm", onednn.product, "CPU")  # type: ignore[no-untyped-call]  # as above
torch.library.register_fake("hesse::mm", lambda a, b: a.new_empty(a.shape[0], b.shape[1]), lib=_library)


MM = torch.ops.hesse.mm.default
"""The product of two matrices by oneDNN."""


def multiply_by_faster_library(graph: Graph) -> None:
    """Replace in ``graph`` those products that oneDNN is faster at."""
    for node in graph.graph.find_nodes(op="call_function", target=aten.mm.default):
        a, b = [argument.meta["val"] for argument in node.args]
        if _laid_out(a) and _laid_out(b) and onednn.outruns(a, b):
            node.target = MM
    graph.recompile()


def _laid_out(matrix: Tensor) -> bool:
    """Whether it is contiguous or the transpose of what is, as oneDNN wants it."""
    return matrix.is_contiguous() or matrix.mT.is_contiguous()
