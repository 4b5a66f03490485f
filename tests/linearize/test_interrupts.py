"""Ctrl-C while a program is captured: it waits, since PyTorch aborts the process at some lines, and then arrives."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize.program.backends import EAGER
from hesse._linearize.program.stand_ins import is_stand_in

from .programs import running

X = torch.linspace(-1, 1, 3)


def interrupting(seen: list[str]) -> Any:
    """A function that asks for an interrupt where it runs on stand-ins."""

    def func(x: Tensor) -> Tensor:
        if is_stand_in(x):
            signal.raise_signal(signal.SIGINT)
            seen.append("went on")
        return (x**4).sum()

    return func


def test_an_interrupt_waits_for_the_recording_and_arrives() -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with running(EAGER), pytest.raises(KeyboardInterrupt):
        hesse.Hessian(interrupting(seen), X, engine="compiled")
    assert seen == ["went on"]
    assert signal.getsignal(signal.SIGINT) is before
    assert torch._C._len_torch_dispatch_stack() == 0
    with running(EAGER):
        H = hesse.Hessian(lambda x: (x**4).sum(), X, engine="compiled")
    torch.testing.assert_close(H @ X, 12 * X**3)


def test_a_handler_of_the_users_gets_it() -> None:
    numbers: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: numbers.append(number))
    try:
        with running(EAGER):
            H = hesse.Hessian(interrupting([]), X, engine="compiled")
        torch.testing.assert_close(H @ X, 12 * X**3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert numbers
    assert set(numbers) == {signal.SIGINT}


def test_other_threads_capture_without_handlers() -> None:
    found: list[Tensor] = []

    def work() -> None:
        found.append(hesse.Hessian(lambda x: (x**4).sum(), X, engine="compiled") @ X)

    with running(EAGER):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], 12 * X**3)
