"""Where a question's state is kept: in one file, in the first rank's, or in a file of each rank."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from torch import Tensor

from hesse._base import files, memory
from hesse._base.errors import CheckpointError
from hesse._operators.operator import Operator
from hesse._ranks.group import Ranks
from hesse._ranks.shards import Shards
from hesse._solvers import checkpoint_file
from hesse._solvers.checkpoint_file import State

T = TypeVar("T")
Found = tuple[dict[str, Any] | None, dict[str, Tensor]]
Plain = Callable[[Any], Any]


def why_unwritten(error: Exception) -> str:
    """Why a file could not be written; another error is raised."""
    short = memory.is_out_of_memory(error)
    if not (short or isinstance(error, OSError | safetensors.SafetensorError)):
        raise error
    return "Out of memory" if short else files.reason(error)


class OneFile:
    """The file of a process alone.

    Attributes:
        path: as the user gave it.
        is_first: whether this process warns.
    """

    is_first = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Found:
        """Header and tensors, where there is a file."""
        header, tensors = self._content()
        if header is not None and _PARTS in header["state"]:
            ranks = header["state"][_PARTS]["ranks"]
            checkpoint_file.refuse(self.path, f"was written by {ranks} ranks that each held a part of vectors")
        return header, tensors

    def _content(self) -> Found:
        files.clean(self.path)
        return checkpoint_file.read(self.path) if self.path.exists() else self._none_yet(self.path)

    def _none_yet(self, path: Path) -> Found:
        """Nothing, where there can be a file."""
        try:
            with files.beside(path):
                return None, {}
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {path} cannot be written: {files.reason(error)}. Give another path."
            ) from error

    def is_due(self, due: bool) -> bool:
        """Whether this process writes now, if it would by its own clock."""
        return due

    def write(self, header: Mapping[str, Any], state: Callable[[], State], plain: Plain) -> None:
        """Write it, whole or not at all."""
        checkpoint_file.write(self.path, header, state(), plain)

    def together(self, compute: Callable[[], T]) -> T:
        """What is computed; where it may be other on each rank, an error of one is raised on all."""
        return compute()


class FirstFile(OneFile):
    """The file of the first of several ranks that hold the same vectors; all go on from it."""

    def __init__(self, path: Path, ranks: Ranks) -> None:
        super().__init__(path)
        self._ranks, self.is_first = ranks, ranks.is_first

    def read(self) -> Found:
        """What the first rank's file holds."""
        return self._ranks.of_first(f"the checkpoint {self.path}", super().read)

    def is_due(self, due: bool) -> bool:
        """The first rank alone writes."""
        return due and self.is_first


class FileOfEach(OneFile):
    """A file of each rank, for its parts of vectors, and a manifest under the path given.

    The files of a state go to one of two slots in turn. The manifest says which; the first rank writes it once all
    files are there. So a rank that is killed at any time leaves a whole state behind.
    """

    def __init__(self, path: Path, shards: Shards) -> None:
        super().__init__(path)
        self._ranks, self.is_first = shards.ranks, shards.ranks.is_first
        self._layout = {"ranks": shards.ranks.size, "layout": shards.mark}
        self._slot, self._count = 0, 0
        self._run = self._ranks.of_first(f"the checkpoint {path}", lambda: secrets.token_hex(8))

    def _part(self, slot: int) -> Path:
        return self.path.with_name(f"{self.path.name}.rank{self._ranks.rank}.{'ab'[slot]}")

    def read(self) -> Found:
        """What this rank's file holds, of the state that the manifest names."""
        header, _ = self._ranks.of_first(f"the checkpoint {self.path}", self._content)
        if header is None:
            return self.together(lambda: self._none_yet(self._part(self._slot)))
        parts = header["state"].get(_PARTS)
        if parts is None:
            checkpoint_file.refuse(self.path, "was written where vectors were whole, not in parts on ranks")
        if {name: parts[name] for name in self._layout} != self._layout:
            checkpoint_file.refuse(
                self.path, f"was written by {parts['ranks']} ranks that held other parts of vectors than these"
            )
        own = self._part(parts["slot"])
        self._slot = 1 - parts["slot"]

        def read() -> Found:
            files.clean(own)
            found, tensors = checkpoint_file.read(own) if own.exists() else (None, {})
            if found is None or found["state"].get(_PARTS) != parts:
                checkpoint_file.refuse(self.path, f"lacks the file {own.name}, or has one of another time")
            return found, tensors

        return self.together(read)

    def is_due(self, due: bool) -> bool:
        """By the clock of the first rank, which also knows the slot that the manifest does not name."""
        told = torch.tensor([1 + self._slot if due and self.is_first else 0], device="cpu")
        found = int(self._ranks.largest(told, "the time of a checkpoint"))
        self._slot = found - 1 if found else self._slot
        return found > 0

    def write(self, header: Mapping[str, Any], state: Callable[[], State], plain: Plain) -> None:
        """Write this rank's file, and on the first rank the manifest; there an error of any rank is raised."""
        self._count += 1
        parts = {**self._layout, "slot": self._slot, "time": f"{self._run} {self._count}"}

        def failure() -> str:
            try:
                checkpoint_file.write(self._part(self._slot), header, {**state(), _PARTS: parts}, plain)
            except Exception as error:
                return why_unwritten(error)
            return ""

        failures = self._ranks.gather(f"the checkpoint {self.path}", failure)
        if not self.is_first:
            return
        if any(failures):
            raise OSError(next(f"on rank {rank}, {why}" for rank, why in enumerate(failures) if why))
        checkpoint_file.write(self.path, header, {_PARTS: parts}, plain)
        self._slot = 1 - self._slot

    def together(self, compute: Callable[[], T]) -> T:
        """What this rank computes; an error of one rank is raised on all."""
        found: list[T] = []
        self._ranks.gather(f"the checkpoint {self.path}", lambda: found.append(compute()))
        return found[0]


_PARTS = "parts of ranks"
"""The entry of a state that says which ranks hold which parts of vectors."""


def place(path: Path, operator: Operator) -> OneFile:
    """Where the state of a question about an operator is kept."""
    if operator.shards is not None:
        return FileOfEach(path, operator.shards)
    return OneFile(path) if operator.ranks is None else FirstFile(path, operator.ranks)
