"""A graph parted so that as little memory is kept as will do.

What is cheap to compute again from what is kept anyway is computed again, by a minimal cut. On the Rosenbrock function
only the point itself is left to keep.
"""

from __future__ import annotations

import copy

import torch

# Private: the minimal cut of PyTorch's own training graphs.
import torch._functorch.config as functorch_config
from torch import fx
from torch._functorch.partitioners import min_cut_rematerialization_partition

from hesse._linearize.program.capture import Graph, Joint

aten = torch.ops.aten

_PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default}


# Shares of what is kept when everything that takes long is, by which more and more is computed again.
_SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


def by_least_memory(joint: Joint, most: int | None = None) -> tuple[Graph, Graph]:
    """What is run once a point, and what is run for each vector.

    With ``most``, so much is computed again that no more bytes are kept between the two, as far as that goes; the
    inputs, which are there anyway, do not count.
    """
    shares = _SHARES[:1] if most is None else _SHARES
    for share in shares:
        whole = fx.GraphModule(joint.graph, copy.deepcopy(joint.graph.graph))
        first, replay = _cut(joint._replace(graph=whole), share)
        if most is not None and kept_bytes(replay) <= most:
            break
    return first, replay


def kept_bytes(replay: Graph) -> int:
    """What a replay takes beside inputs and vectors."""
    kept = [
        node.meta["val"]
        for node in replay.graph.find_nodes(op="placeholder")
        if not node.target.startswith(("primals", "tangents"))
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _cut(joint: Joint, share: float) -> tuple[Graph, Graph]:
    # By default it keeps more for fear of long recomputations. Where all is elementwise, reading costs more than they
    # do (Rosenbrock: 28x against 45x); beside products of matrices they only add (the CNN: 10 % slower without fear).
    afraid = any(node.target in _PRODUCTS for node in joint.graph.graph.nodes)
    with functorch_config.patch(
        ban_recompute_used_far_apart=afraid,
        ban_recompute_long_fusible_chains=afraid,
        ban_recompute_materialized_backward=afraid,
        activation_memory_budget=share,
    ):
        first, replay = min_cut_rematerialization_partition(
            joint.graph,
            joint.stand_ins,
            num_fwd_outputs=joint.num_first,
            static_lifetime_input_indices=list(range(joint.num_kept_inputs)),
        )
    return first, replay
