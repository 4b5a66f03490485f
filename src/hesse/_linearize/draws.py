"""Draw again: so that a second evaluation of a function draws what the first one drew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hesse._base.devices import States, put_back


@contextlib.contextmanager
def drawing_from(states: States) -> Iterator[None]:
    """Draw again from these states, and leave the generators as they are found."""
    found = {generator: generator.get_state() for generator in states}
    put_back(states)
    try:
        yield
    finally:
        put_back(found)
