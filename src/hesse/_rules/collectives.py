"""Collectives of a model's own layers, as those of DTensors: a step of the ranks that compute it together.

Ranks announce each of them, so that an error on one of them reaches the others before they wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hesse._ranks import group
from hesse._rules.scope import intercept, operator_of

_NAMES = (
    *["all_reduce", "all_reduce_", "all_reduce_coalesced", "all_reduce_coalesced_"],
    *["all_gather_into_tensor", "all_gather_into_tensor_out", "all_gather_into_tensor_coalesced"],
    *["reduce_scatter_tensor", "reduce_scatter_tensor_out", "reduce_scatter_tensor_coalesced"],
    *["all_to_all_single", "broadcast", "broadcast_"],
)


def _announced(name: str, operator: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        ranks = group.computing_together()
        if ranks is None:
            return operator(*args, **kwargs)
        return ranks.within(f"{name} of a layer", lambda: operator(*args, **kwargs))

    return kernel


for _space, _found in (("_c10d_functional", _NAMES), ("_dtensor", ("shard_dim_alltoall",))):
    for _name in _found:
        # Older releases have not all of them, and builds without torch.distributed none.
        intercept(f"{_space}::{_name}", _announced(_name, operator_of(f"{_space}::{_name}")))
