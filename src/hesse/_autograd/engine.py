"""The call of PyTorch's engine that ``torch.autograd.grad`` makes, once it has looked at each tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[..., tuple[Tensor | None, ...]]


def _probed() -> Run | None:
    """The call, where it does what it did; there is no public name."""
    run: Run | None = getattr(torch.autograd.graph, "_engine_run_backward", None)
    if run is None:
        return None
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x, y = torch.full((2, 1), 3.0, device="cpu").unbind()
            x, y = x.requires_grad_(), y.requires_grad_()
            found = run((x * x,), (torch.ones_like(x),), False, False, (x, y), True, accumulate_grad=False)
            is_known = x.grad is None and found[1] is None and found[0] is not None and torch.equal(found[0], 2 * x)
    except Exception:
        return None
    return run if is_known else None


run = _probed()
"""``run(outputs, cotangents, retain_graph, create_graph, inputs, allow_unused, accumulate_grad=False)``, or None.

The first, second and fifth are tuples of tensors; outputs may be edges. Outputs require gradients, and cotangents have
their shapes and dtypes. ``torch.autograd.grad`` takes 8 µs more, and 2 µs for each output, to see that.
"""
