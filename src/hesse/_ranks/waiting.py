"""Waiting for other ranks: those that left or never came are named, before the group's own time is up."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from hesse._base.errors import first_line

# Seconds before a rank looks for why others do not come, and between two looks.
PATIENCE = 1.0
# The part of the group's time-out after which ranks that have not come are named.
SHARE = 0.8


class Notes:
    """What ranks tell each other beside their collectives, in the store of their group.

    A rank that waits long writes where it is, and one that leaves writes why. A note counts as long as its rank has
    taken part in as many collectives as whoever reads it.

    Args:
        group: the ranks' group.
        rank, size: which of how many this is.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int) -> None:
        self._store, self._rank, self._size = group.get_group_store(), rank, size
        self._left: tuple[int, str, str] | None = None
        self._limit = SHARE * _time_out(group).total_seconds()

    def leave(self, count: int, what: str, error: BaseException) -> None:
        """Say that this rank takes no part in what comes after ``count`` collectives."""
        text = f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
        self._left = count, what, text
        self._write(count, what, text)

    def _write(self, count: int, what: str, left: str) -> None:
        self._store.set(f"hesse/{self._rank}", json.dumps([count, what, left]))

    def _read(self, rank: int, count: int) -> tuple[str, str] | None:
        """What a rank does, and why it left, by its note of now."""
        key = f"hesse/{rank}"
        if not self._store.check([key]):
            return None
        told, what, left = json.loads(self._store.get(key))
        return (what, left) if told == count else None

    def wait(self, work: Any, count: int, what: str, *, computing: bool) -> None:
        """Wait until a collective is done.

        Args:
            work: the collective.
            count: its number.
            what: what it is for, for a sentence.
            computing: whether others may still be computing, for as long as they need.

        Raises:
            RuntimeError: another rank left, died, or has not come.
        """
        begun = time.monotonic()
        look = PATIENCE
        while not work.is_completed():
            waited = time.monotonic() - begun
            if waited >= look:
                look = waited + PATIENCE
                self._look(count, what, waited, computing=computing)
            # The end is noticed late by a twentieth of the time waited at most.
            time.sleep(min(waited / 20, 0.01))
        try:
            work.wait()
        except RuntimeError as error:
            self._missing(count, what)
            raise RuntimeError(
                f"{what} cannot go on, since the connection to another rank was lost ({first_line(error)}). Its own"
                " output says why that rank ended."
            ) from error

    def _look(self, count: int, what: str, waited: float, *, computing: bool) -> None:
        self._write(count, what, "")
        missing = self._missing(count, what)
        if waited > self._limit and not computing:
            raise RuntimeError(
                f"{what} has waited {waited:.0f} s for {listed(missing)} of {self._size}. Every rank of the group makes"
                " the same operators, and asks them the same, in the same order."
            )

    def _missing(self, count: int, what: str) -> list[int]:
        """The ranks that do not wait as well; one that has left ends the wait."""
        missing = []
        for rank in range(self._size):
            note = None if rank == self._rank else self._read(rank, count)
            # What this rank left for the same reason, all have left.
            if note is not None and note[1] and self._left != (count, *note):
                raise RuntimeError(f"{what} cannot go on, since rank {rank} left {note[0]} ({note[1]}).")
            if note is None and rank != self._rank:
                missing.append(rank)
        return missing


def listed(ranks: list[int]) -> str:
    """Ranks by their numbers."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _time_out(group: dist.ProcessGroup) -> timedelta:
    """How long collectives of the group may take."""
    for device in group._device_types:
        options = getattr(group._get_backend(device), "options", None)
        found = getattr(options, "_timeout", None)
        if isinstance(found, timedelta):
            return found
    return dist.default_pg_timeout
