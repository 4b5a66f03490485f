"""Refuse backwards of torch.distributed that have a wrong derivative themselves, and do not say so.

The backward of ``DTensor.from_local``, by which plain tensors enter a tensor parallel layer, gives the right gradient,
but without history where it has to redistribute it; and where the local tensors are summed, the derivative of the
gradient is each rank's own and not the sum. Within ``loss_parallel()`` the backward of a softmax hands on what it gets.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hesse._autograd import graph
from hesse._base.errors import NoDerivativeError
from hesse._base.several_ranks import group_exists


def may_exist() -> bool:
    """Whether functions of torch.distributed can be in a graph, which may be long and is looked through only then."""
    return group_exists()


@contextlib.contextmanager
def refused(outputs: Sequence[Tensor]) -> Iterator[None]:
    """Within, a backward from ``outputs`` that is to be differentiated itself raises where that would be wrong."""
    handles = []
    try:
        for node in graph.nodes(outputs):
            function = getattr(node, "_forward_cls", None)
            if function is not None and function.__name__ == "SyncBatchNorm":
                raise NoDerivativeError(
                    "The function cannot be differentiated twice: SyncBatchNorm, which normalizes by the batches of all"
                    " ranks, has no second derivative in PyTorch. Call model.eval(), or give a model with"
                    " torch.nn.BatchNorm2d or GroupNorm.",
                    "SyncBatchNorm",
                    None,
                )
            if function is not None and function.__module__.startswith("torch.distributed"):
                # Of ``from_local``: how the whole is made of the local tensors.
                placements = getattr(node, "forward_input_placements", ())
                is_sum = any(placement.is_partial() for placement in placements)
                handles.append(node.register_hook(_refusal(function.__name__, is_sum)))
            elif node.name().startswith("LogSoftmaxBackward") and _is_loss_parallel():
                raise NoDerivativeError(
                    "The function cannot be differentiated twice within loss_parallel(), where PyTorch's derivative of"
                    " a softmax has none itself. Leave loss_parallel() out.",
                    "aten::_log_softmax_backward_data",
                    None,
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refusal(name: str, is_sum: bool) -> Callable[[Any, Any], None]:
    def refuse(gradients: tuple[Tensor | None, ...], cotangents: tuple[Tensor | None, ...]) -> None:
        if not any(cotangent is not None and cotangent.requires_grad for cotangent in cotangents):
            return
        # Up to PyTorch 2.11 a gradient says that it requires gradients, and is a leaf.
        own = {id(cotangent) for cotangent in cotangents}
        cut = [gradient for gradient in gradients if gradient is not None and gradient.grad_fn is None]
        if is_sum or any(not gradient.requires_grad or id(gradient) not in own for gradient in cut):
            raise NoDerivativeError(
                f"The function cannot be differentiated once more: the backward of torch.distributed's {name}, which a"
                " DTensor passed, has a wrong derivative itself. Give a model without tensor parallel; of a function of"
                " DTensors take hesse.vhp, which differentiates least often.",
                name,
                None,
            )

    return refuse


def _is_loss_parallel() -> bool:
    """Whether the call stands within ``loss_parallel()``."""
    if "torch.distributed.tensor.parallel.loss" not in sys.modules:
        return False
    # No public name tells; the test of loss_parallel fails if this one moves.
    handlers = sys.modules["torch.distributed.tensor"].DTensor._op_dispatcher._custom_op_handlers
    return torch.ops.aten._log_softmax_backward_data.default in handlers
