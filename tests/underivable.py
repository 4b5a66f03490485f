"""An operator whose backward is an operator without a derivative, as many of PyTorch's own are."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("hesse_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    """Elementwise x³."""
    return x**3


@torch.library.custom_op("hesse_tests::cube_backward", mutates_args=())
def cube_backward(cotangent: Tensor, x: Tensor) -> Tensor:
    """Its gradient, which cannot be differentiated."""
    return 3 * x**2 * cotangent


cube.register_autograd(
    lambda ctx, cotangent: cube_backward(cotangent, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
