"""Backwards of torch.distributed that have a wrong derivative themselves, and do not say so: mended, or refused.

The backward of ``DTensor.from_local``, by which plain tensors enter a tensor parallel layer, gives the right gradient,
but without history where it has to redistribute it; and where the local tensors are summed, the derivative of the
gradient is each rank's own and not the sum. It is done again by functions that autograd follows. Within
``loss_parallel()`` the backward of a softmax hands on what it gets.
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
from hesse._base.several_ranks import group_exists, is_dtensor


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
                placements = getattr(node, "forward_input_placements", None)
                hook = _refusal(function.__name__) if placements is None else _from_local(node, placements)
                handles.append(node.register_hook(hook))
            elif node.name().startswith("LogSoftmaxBackward") and _is_loss_parallel(node):
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


def _from_local(node: Any, placements: Sequence[Any]) -> Callable[[Any, Any], Any]:
    """The backward of ``from_local`` by functions that autograd follows: redistribute, then take the local tensor."""
    sums = [placement.is_partial() for placement in placements]
    mesh, given = node.forward_input_device_mesh, getattr(node, "grad_placements", None)
    # PyTorch's gradient by a part of a sum is that by the sum, on every rank.
    whole = sys.modules["torch.distributed.tensor"].Replicate()
    wanted = given or [whole if is_sum else placement for placement, is_sum in zip(placements, sums, strict=True)]
    if any(want.is_partial() for want in wanted):
        return _refusal("_FromTorchTensor")

    def mend(gradients: tuple[Tensor | None, ...], cotangents: tuple[Any, ...]) -> tuple[Tensor | None, ...] | None:
        (cotangent,) = cotangents
        if cotangent is None or gradients[0] is None or not cotangent.requires_grad:
            return None
        # Parts of a sum are variables of their ranks, so what is multiplied with their derivatives is summed as well.
        back = [placement if is_sum else want for placement, is_sum, want in zip(placements, sums, wanted, strict=True)]
        return (cotangent.redistribute(mesh, wanted).to_local(grad_placements=back), *gradients[1:])

    return mend


def _refusal(name: str) -> Callable[[Any, Any], None]:
    def refuse(gradients: tuple[Tensor | None, ...], cotangents: tuple[Tensor | None, ...]) -> None:
        if not any(cotangent is not None and cotangent.requires_grad for cotangent in cotangents):
            return
        # Up to PyTorch 2.11 a gradient says that it requires gradients, and is a leaf.
        own = {id(cotangent) for cotangent in cotangents}
        cut = [gradient for gradient in gradients if gradient is not None and gradient.grad_fn is None]
        if any(not gradient.requires_grad or id(gradient) not in own for gradient in cut):
            raise NoDerivativeError(
                f"The function cannot be differentiated once more: the backward of torch.distributed's {name}, which a"
                " DTensor passed, has a wrong derivative itself. Give a model without tensor parallel; of a function of"
                " DTensors take hesse.vhp, which differentiates least often.",
                name,
                None,
            )

    return refuse


def _is_loss_parallel(node: Any) -> bool:
    """Whether a logarithm of a softmax was, or would be differentiated, within ``loss_parallel()``."""
    if "torch.distributed.tensor.parallel.loss" not in sys.modules:
        return False
    result = node._saved_result
    if is_dtensor(result):
        dim = node._saved_dim if node._saved_dim < result.dim() else node._saved_dim - 2**64
        # Nothing else keeps a softmax cut along its own dimension.
        if any(placement.is_shard(dim % result.dim()) for placement in result.placements):
            return True
    # No public name tells; the test of loss_parallel fails if this one moves.
    handlers = sys.modules["torch.distributed.tensor"].DTensor._op_dispatcher._custom_op_handlers
    return torch.ops.aten._log_softmax_backward_data.default in handlers
