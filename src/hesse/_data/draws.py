"""Random generators put back: passes over data draw the same numbers each time, and the user's stay as they were."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hesse._autograd import generators as others
from hesse._autograd.captured import reach
from hesse._base.devices import States, generator_states, put_back
from hesse._base.interrupts import Net

# The generators belong to the process: of several threads one at a time draws.
_ALONE = threading.RLock()


class GeneratorState:
    """Within ``with`` the generators start from the state they had when this was made; afterwards they are as before.

    Other threads that draw within one of these wait. ``with state.net, state:`` puts the generators back also where an
    interrupt comes while ``state`` is entered or left. The generators are PyTorch's own, of every device in use, and
    ``more``.
    """

    def __init__(self, more: Sequence[Any] = ()) -> None:
        self._begin(generator_states(), more)

    def _begin(self, initial: States, more: Sequence[Any]) -> None:
        self._initial = initial
        self._before: States | None = None
        self._more = more
        self._more_initially = self._more_now()
        self._more_before: list[Callable[[], object]] = []
        self._is_alone = False

    @property
    def net(self) -> contextlib.AbstractContextManager[object]:
        """Leaves this again, where it was not left."""
        return Net(self._leave)

    def resumed(self) -> Resumed:
        """The same, for one pass in several microbatches."""
        fresh = Resumed(self._more)
        fresh._initial, fresh._more_initially = self._initial, self._more_initially
        return fresh

    def _more_now(self) -> list[Callable[[], object]]:
        """What puts the other generators back to where they are now."""
        return [others.put_back(generator) for generator in self._more]

    def __enter__(self) -> None:
        self._is_alone = _ALONE.acquire()
        self._more_before = self._more_now()
        self._before = generator_states()
        put_back(self._initial)
        for restore in self._more_initially:
            restore()

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._before is not None:
            put_back(self._before)
            for restore in self._more_before:
                restore()
            self._before = None
        if self._is_alone:
            # On one line, between whose parts no interrupt comes.
            self._is_alone = bool(_ALONE.release())  # type: ignore[func-returns-value]  # None, which is false


class Seeded(GeneratorState):
    """Within ``with`` the generators start from a seed; afterwards they are as before.

    Attributes:
        drew: whether anything was drawn within.
    """

    def __init__(self, seed: int) -> None:
        # Where they start is known once they are seeded: it is not looked up before.
        self._begin({}, ())
        self._seed = seed
        self.drew = False

    def __enter__(self) -> None:
        self._is_alone = _ALONE.acquire()
        self._before = generator_states()
        for generator in self._before:
            generator.manual_seed(self._seed)
        self._initial = generator_states()

    def __exit__(self, *exception: object) -> None:
        self.drew = any([not torch.equal(generator.get_state(), state) for generator, state in self._initial.items()])
        super().__exit__(*exception)


class Resumed(GeneratorState):
    """Within each ``with`` the generators go on from where they were at the end of the one before."""

    def __exit__(self, *exception: object) -> None:
        self._initial, self._more_initially = generator_states(), self._more_now()
        super().__exit__(*exception)


def drawn_from(data: object) -> list[Any]:
    """The generators beside PyTorch's that data may draw from: those that it holds, and NumPy's and Python's own."""
    held = {id(value): value for _, value in reach(data) if others.is_own(value)}
    return [*held.values(), np.random.get_state.__self__, random.getstate.__self__]  # type: ignore[attr-defined]  # both are methods of the generator
