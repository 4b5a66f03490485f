"""Ctrl-C while a program is captured: it waits, since PyTorch aborts the process at some lines, and then arrives."""

from __future__ import annotations

import signal
import threading

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse._linearize.program.backends import EAGER
from hesse._linearize.program.stand_ins import is_stand_in

from .programs import running

X = torch.linspace(-1, 1, 3)


def interrupted(x: Tensor) -> Tensor:
    """A function that is interrupted where it runs on stand-ins."""
    if is_stand_in(x):
        signal.raise_signal(signal.SIGINT)
        # Not into a list, which is put back.
        print("went on")
    return (x**4).sum()


def test_an_interrupt_waits_for_the_recording_and_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with running(EAGER), pytest.raises(KeyboardInterrupt):
        hesse.Hessian(interrupted, X, engine="compiled")
    assert capsys.readouterr().out == "went on\n"
    assert signal.getsignal(signal.SIGINT) is before
    assert torch._C._len_torch_dispatch_stack() == 0
    with running(EAGER):
        H = hesse.Hessian(lambda x: (x**4).sum(), X, engine="compiled")
    torch.testing.assert_close(H @ X, 12 * X**3)


def test_other_signals_wait_as_well() -> None:
    """As the one that asks to end; each arrives, and all handlers are there again."""

    def asked_to_end(x: Tensor) -> Tensor:
        if is_stand_in(x):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        return (x**4).sum()

    def handler(number: int, frame: object) -> None:
        raise SystemExit

    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, handler)
    try:
        with running(EAGER), pytest.raises((SystemExit, KeyboardInterrupt)) as raised:
            hesse.Hessian(asked_to_end, X, engine="compiled")
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before[1])
    assert signal.getsignal(signal.SIGINT) is before[0]
    assert {type(raised.value), type(raised.value.__context__)} == {SystemExit, KeyboardInterrupt}
    assert torch._C._len_torch_dispatch_stack() == 0


def test_a_handler_of_the_users_gets_it() -> None:
    numbers: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: numbers.append(number))
    try:
        with running(EAGER):
            H = hesse.Hessian(interrupted, X, engine="compiled")
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


@pytest.mark.parametrize("engine", ["auto", "compiled"])
def test_what_a_handler_raises_comes_out_as_itself(engine: str) -> None:
    """An alarm's error says nothing about the function, whatever runs meanwhile."""

    class Alarm:
        def __call__(self, number: int, frame: object) -> None:
            raise TimeoutError("too late")

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        value = model(batch).square().mean()
        # While a program is captured; and of a half of the batch, which tells whether it is a mean.
        if is_stand_in(value) or (engine == "auto" and len(batch) == 2):
            signal.raise_signal(signal.SIGALRM)
        return value

    before = signal.signal(signal.SIGALRM, Alarm())
    try:
        with running(EAGER), pytest.raises(TimeoutError, match="too late"):
            hesse.LossHessian(nn.Linear(3, 1), loss, [torch.ones(4, 3)] * 2, engine=engine, verify=False).gradient  # noqa: B018  # what it takes is what is looked at
    finally:
        signal.signal(signal.SIGALRM, before)
