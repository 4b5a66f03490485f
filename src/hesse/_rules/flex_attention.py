"""FlexAttention: its gradient has no derivative, which PyTorch does not notice; here it is refused.

In PyTorch 2.13 the gradient is marked as not differentiable by a node that raises when a backward comes to it, but no
backward does: the node is not connected to what was given. So second derivatives through FlexAttention lack, without a
word, all that comes from the attention itself. On CPUs PyTorch refuses even the first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesse._rules.scope import intercept

NAME = "higher_order::flex_attention_backward"


def refuse_derivative(*args: Any, **kwargs: Any) -> Any:
    """The gradient, where nobody will differentiate it."""
    if torch.is_grad_enabled() and any([isinstance(entry, Tensor) and entry.requires_grad for entry in args]):
        raise NotImplementedError(f"derivative for {NAME} is not implemented")
    return torch.ops.higher_order.flex_attention_backward(*args, **kwargs)


intercept(NAME, refuse_derivative)
