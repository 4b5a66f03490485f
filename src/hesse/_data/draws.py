"""Random generators put back: passes over data draw the same numbers each time, and the user's stay as they were."""

from __future__ import annotations

import contextlib
import threading

import torch

from hesse._base.devices import States, generator_states, put_back
from hesse._base.interrupts import Net

# The generators belong to the process: of several threads one at a time draws.
_ALONE = threading.RLock()


class GeneratorState:
    """Within ``with`` the generators start from the state they had when this was made; afterwards they are as before.

    Other threads that draw within one of these wait. ``with state.net, state:`` puts the generators back also where an
    interrupt comes while ``state`` is entered or left. The generators are PyTorch's own, of every device in use.
    """

    def __init__(self) -> None:
        self._initial = generator_states()
        self._before: States | None = None
        self._is_alone = False

    @property
    def net(self) -> contextlib.AbstractContextManager[object]:
        """Leaves this again, where it was not left."""
        return Net(self._leave)

    def resumed(self) -> Resumed:
        """The same, for one pass in several microbatches."""
        fresh = Resumed()
        fresh._initial = self._initial
        return fresh

    def __enter__(self) -> None:
        self._is_alone = _ALONE.acquire()
        self._before = generator_states()
        put_back(self._initial)

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._before is not None:
            put_back(self._before)
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
        super().__init__()
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
        self._initial = generator_states()
        super().__exit__(*exception)
