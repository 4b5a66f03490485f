"""Run a graph as it is, whatever surrounds the call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from hesse._autograd.thread_state import inference_mode


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Nothing that surrounds a call changes what a program was compiled to do."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
