"""Random generators put back: passes over data draw the same numbers each time, and the user's stay as they were."""

from __future__ import annotations

import contextlib
import threading

import torch
from torch import Tensor

from hesse._base.interrupts import Net

# The generators belong to the process: of several threads one at a time draws.
_ALONE = threading.RLock()


class State:
    """Within ``with`` the generators start from the state they had when this was made; afterwards they are as before.

    Other threads that draw within one of these wait. ``with state.net, state:`` puts the generators back also where an
    interrupt comes while ``state`` is entered or left.

    Args:
        device: the CUDA device whose generator is meant beside the CPU's, if it is one.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        self._initial = self._read()
        self._before: list[Tensor] | None = None
        self._is_alone = False

    @property
    def net(self) -> contextlib.AbstractContextManager[object]:
        """Leaves this again, where it was not left."""
        return Net(self._leave)

    def resumed(self) -> Resumed:
        """The same, for one pass in several pieces."""
        fresh = Resumed(self._device)
        fresh._initial = self._initial
        return fresh

    def __enter__(self) -> None:
        self._is_alone = _ALONE.acquire()
        self._before = self._read()
        self._write(self._initial)

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._before is not None:
            self._write(self._before)
            self._before = None
        if self._is_alone:
            # On one line, between whose parts no interrupt comes.
            self._is_alone = bool(_ALONE.release())  # type: ignore[func-returns-value]  # None, which is false

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
        self._is_alone = _ALONE.acquire()
        self._before = self._read()
        torch.default_generator.manual_seed(self._seed)
        if self._device is not None:
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(self._seed)
        self._initial = self._read()

    def __exit__(self, *exception: object) -> None:
        self.drew = not all([torch.equal(a, b) for a, b in zip(self._read(), self._initial, strict=True)])
        super().__exit__(*exception)


class Resumed(State):
    """Within each ``with`` the generators go on from where they were at the end of the one before."""

    def __exit__(self, *exception: object) -> None:
        self._initial = self._read()
        super().__exit__(*exception)
