"""Run a graph as it is, whatever surrounds the call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hesse._autograd.thread_state import inference_mode, interruptible


class undisturbed:
    """Nothing that surrounds a call changes what a program was compiled to do.

    Below a function that is ``interruptible``.
    """

    def __enter__(self) -> None:
        # No generator, and a stack only where it is needed: they take longer than the arithmetic of a small program.
        self._gradients = torch.is_grad_enabled()
        self._others: contextlib.ExitStack | None = None
        if torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
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


def results(run: Callable[[list[Tensor]], Sequence[Tensor]], given: list[Tensor]) -> list[Tensor]:
    """``run(given)`` undisturbed, of tensors that require no gradients.

    Of these it is all the same whether gradients are on, and as a rule nothing has to be changed, nor put back.
    """
    if torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return _apart(run, given)
    return list(run(given))


@interruptible
def _apart(run: Callable[[list[Tensor]], Sequence[Tensor]], given: list[Tensor]) -> list[Tensor]:
    with undisturbed():
        return list(run(given))
