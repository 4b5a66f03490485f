"""Random generators put back: passes over data draw the same numbers each time, and the user's stay as they were."""

from __future__ import annotations

import torch
from torch import Tensor


class State:
    """Within ``with`` the generators start from the state they had when this was made; afterwards they are as before.

    Args:
        device: the CUDA device whose generator is meant beside the CPU's, if it is one.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        self._initial = self._read()

    def __enter__(self) -> None:
        self._before = self._read()
        self._write(self._initial)

    def __exit__(self, *exception: object) -> None:
        self._write(self._before)

    def _read(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return states if self._device is None else [*states, torch.cuda.get_rng_state(self._device)]

    def _write(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device is not None:
            torch.cuda.set_rng_state(states[1], self._device)


class Seeded(State):
    """Within ``with`` the generators start from a seed; afterwards they are as before.

    Attributes:
        drew: whether anything was drawn within.
    """

    def __init__(self, device: torch.device | None, seed: int) -> None:
        super().__init__(device)
        self._seed = seed
        self.drew = False

    def __enter__(self) -> None:
        self._before = self._read()
        torch.default_generator.manual_seed(self._seed)
        if self._device is not None:
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(self._seed)
        self._initial = self._read()

    def __exit__(self, *exception: object) -> None:
        self.drew = not all([torch.equal(a, b) for a, b in zip(self._read(), self._initial, strict=True)])
        super().__exit__(*exception)
