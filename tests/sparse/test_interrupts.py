"""Ctrl-C while a pattern is found: it waits, since PyTorch aborts the process at some lines, and then arrives."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import Tensor

import hesse


def test_an_interrupt_waits_for_the_pattern_and_arrives() -> None:
    went_on = []

    def interrupted(x: Tensor) -> Tensor:
        if torch._C._len_torch_dispatch_stack():
            signal.raise_signal(signal.SIGINT)
            went_on.append(None)
        return (x**4).sum()

    x = torch.linspace(-1, 1, 3)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        hesse.sparse_hessian(interrupted, x)
    assert went_on
    assert signal.getsignal(signal.SIGINT) is before
    assert torch._C._len_torch_dispatch_stack() == 0
