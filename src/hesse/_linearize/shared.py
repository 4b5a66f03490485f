"""``Shared``: what linearizations at one point have in common, when there is one for each batch of data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hesse._autograd.reading import Reading
from hesse._linearize.choice import EngineName
from hesse._linearize.program.surroundings import Sorted, Surroundings

if TYPE_CHECKING:
    from hesse._linearize.program.program import Program


class Shared:
    """What linearizations at one point have in common, when there is one for each batch of data.

    Args:
        reads: by name, all that they read beside the arguments of each.
        engine: what makes them all, also after another engine was decided for at another point.

    Attributes:
        trusted: the programs that are trusted here: they were compared with the tape, or no comparison was due.
    """

    def __init__(self, reads: Callable[[], dict[str, Any]], engine: EngineName) -> None:
        self.reads, self.engine = reads, engine
        self.trusted: set[Program] = set()

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        """What those read, looked through once."""
        return Surroundings(Sorted(Reading(self.reads()).now()), (), ())
