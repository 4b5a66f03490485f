"""Run a graph as it is, whatever surrounds the call; trace one at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hesse._autograd.thread_state import inference_mode, interruptible
from hesse._base.precision import any_autocast

tracing = threading.RLock()
"""Held while a graph is traced or compiled: PyTorch's tracer replaces functions that all threads call."""


class undisturbed:
    """Nothing that surrounds a call changes what a program was compiled to do.

    Below a function that is ``interruptible``.
    """

    def __enter__(self) -> None:
        # No generator, and a stack only where it is needed: they take longer than the arithmetic of a small program.
        self._gradients = torch.is_grad_enabled()
        self._others: contextlib.ExitStack | None = None
        if torch.is_inference_mode_enabled() or any_autocast():
            self._others = contextlib.ExitStack()
            if torch.is_inference_mode_enabled():
                self._others.enter_context(inference_mode(False))
            for kind in ("cpu", "cuda"):
                self._others.enter_context(torch.autocast(kind, enabled=False))
        torch._C._set_grad_enabled(False)

    def __exit__(self, *exception: object) -> None:
        torch._C._set_grad_enabled(self._gradients)
        if self._others is not None:
            self._others.close()


@interruptible
def run_undisturbed(run: Callable[[list[Tensor]], Sequence[Tensor]], given: list[Tensor]) -> list[Tensor]:
    """``run(given)``, whatever surrounds the call."""
    with undisturbed():
        return list(run(given))
