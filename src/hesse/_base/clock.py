"""Seconds that work took, its work on another device included."""

from __future__ import annotations

import time

import torch


class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def lap(self, device: torch.device) -> float:
        """Seconds since it was made, once the device has finished."""
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - self._start
