"""Autocast is seen for every kind of device, on the thread that is under it."""

from __future__ import annotations

import threading

import pytest
import torch

from hesse._base.precision import KINDS, Autocast, any_autocast


@pytest.mark.private
def test_autocast_for_any_kind_of_device_is_seen_on_its_thread() -> None:
    assert not any_autocast()
    assert Autocast.now() is Autocast.now()
    for kind in KINDS:
        if kind == "mps" and not torch.backends.mps.is_built():
            continue
        torch.set_autocast_enabled(kind, True)
        try:
            assert any_autocast()
            assert Autocast.now().is_on
            elsewhere: list[bool] = []
            thread = threading.Thread(target=lambda seen=elsewhere: seen.append(any_autocast()))
            thread.start()
            thread.join()
            assert elsewhere == [False]
        finally:
            torch.set_autocast_enabled(kind, False)
    assert not Autocast.now().is_on
