"""A graph parted so that as little memory is kept as will do.

What is cheap to compute again from what is kept anyway is computed again, by a minimal cut. On the Rosenbrock function
only the point itself is left to keep.
"""

from __future__ import annotations

import torch

# Private: the minimal cut of PyTorch's own training graphs.
import torch._functorch.config as functorch_config
from torch._functorch.partitioners import min_cut_rematerialization_partition

from hesse.engines.capture import Graph, Joint

aten = torch.ops.aten

_PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default}


def by_least_memory(joint: Joint) -> tuple[Graph, Graph]:
    """What is run once a point, and what is run for each vector."""
    # By default it keeps more for fear of long recomputations. Where all is elementwise, reading costs more than they
    # do (Rosenbrock: 28x against 45x); beside products of matrices they only add (the CNN: 10 % slower without fear).
    afraid = any(node.target in _PRODUCTS for node in joint.graph.graph.nodes)
    with functorch_config.patch(
        ban_recompute_used_far_apart=afraid,
        ban_recompute_long_fusible_chains=afraid,
        ban_recompute_materialized_backward=afraid,
    ):
        first, replay = min_cut_rematerialization_partition(
            joint.graph,
            joint.stand_ins,
            num_fwd_outputs=joint.num_first,
            static_lifetime_input_indices=list(range(joint.num_kept_inputs)),
        )
    return first, replay
