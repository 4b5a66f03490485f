"""What the engine of autograd wants of a node that it is calling."""

from __future__ import annotations

from typing import Any

import torch


def wanted(node: Any) -> list[bool]:
    """For each tensor among the inputs of a torch.autograd.Function, whether this backward follows its gradient.

    ``ctx.needs_input_grad`` only tells whether some backward could. Called in the node's ``backward``.
    """
    return [following is not None and _will_execute(following) for following, _ in node.next_functions]


def _will_execute(node: Any) -> bool:
    # No public name tells. It raises on a leaf that torch.autograd.grad was asked for, which is wanted, therefore.
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError as error:
        if "leaf node" not in str(error):
            raise
        return True
