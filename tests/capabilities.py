"""What the installed PyTorch can do by itself, found out by trying; releases differ, and tests say what they need."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F


@functools.cache
def batches_group_norm() -> bool:
    """Whether a batched backward through the gradient of GroupNorm gives what single ones give."""
    x = torch.randn(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(F.group_norm(x, 2).sin().sum(), x, create_graph=True)
    vectors = torch.randn(3, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    single = [torch.autograd.grad(gradient, x, vector, retain_graph=True)[0] for vector in vectors]
    try:
        (together,) = torch.autograd.grad(gradient, x, vectors, is_grads_batched=True)
    except RuntimeError:
        return False
    return torch.allclose(together, torch.stack(single))
