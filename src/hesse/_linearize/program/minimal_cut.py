"""Partition a graph so that little memory is kept, by PyTorch's minimal cut.

The replay recomputes what is cheap to compute from the kept tensors. For Rosenbrock's function only the point is kept.
"""

from __future__ import annotations

import torch

# Private: the minimal cut of PyTorch's own training graphs.
import torch._functorch.config as functorch_config
from torch._functorch.partitioners import min_cut_rematerialization_partition

from hesse._linearize.program.graph import POINT, Graph, copy_of, inputs_of, is_vector, stand_ins_of

aten = torch.ops.aten

_PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default}

# Budgets for kept memory, relative to keeping the results of all expensive operations.
_BUDGETS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)


def by_least_memory(joint: Graph, num_first: int, most: int | None = None) -> tuple[Graph, Graph]:
    """The first half, and the replay, of a graph whose first ``num_first`` results do not depend on vectors.

    With ``most``, the replay recomputes more until the kept tensors take at most so many bytes, where that is possible.
    Inputs do not count, since they stay in memory anyway.
    """
    for budget in _BUDGETS[:1] if most is None else _BUDGETS:
        first, replay = _cut(copy_of(joint), num_first, budget)
        if most is not None and kept_bytes(replay) <= most:
            break
    return first, replay


def kept_bytes(replay: Graph) -> int:
    """Bytes of a replay's inputs that are neither inputs of the first half nor vectors."""
    kept = [
        node.meta["val"] for node in inputs_of(replay) if not is_vector(node) and not str(node.target).startswith(POINT)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def _cut(joint: Graph, num_first: int, budget: float) -> tuple[Graph, Graph]:
    # PyTorch's default does not recompute long chains. A replay runs many times, and recomputing elementwise operations
    # costs less than reading memory (Rosenbrock: 28x against 45x). Beside products of matrices the default is better
    # (a convolutional network's replay: 52 ms against 61 ms).
    cautious = any(node.target in _PRODUCTS for node in joint.graph.nodes)
    with functorch_config.patch(
        ban_recompute_used_far_apart=cautious,
        ban_recompute_long_fusible_chains=cautious,
        ban_recompute_materialized_backward=cautious,
        activation_memory_budget=budget,
    ):
        first, replay = min_cut_rematerialization_partition(
            joint,
            stand_ins_of(joint),
            num_fwd_outputs=num_first,
            static_lifetime_input_indices=[i for i, node in enumerate(inputs_of(joint)) if not is_vector(node)],
        )
    return first, replay
