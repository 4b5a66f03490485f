"""Writing results of commands: whole or not at all, and one sentence where that fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from rich.table import Table
from torch import Tensor

from hesse._base import files
from hesse._cli.failures import CommandError


def is_first() -> bool:
    """Whether this process prints and writes: of those that torchrun started, the first."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0"


def facts(rows: Iterable[tuple[str, str]], **values: Any) -> Table:
    """Names and values, a pair a line; ``values`` are the settings of the second column."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(**(values or {"overflow": "fold"}))
    for row in rows:
        table.add_row(*row)
    return table


def check(path: Path) -> None:
    """One sentence if nothing could be written to ``path``, to be called before the work is done."""
    if not path.parent.is_dir():
        raise CommandError(f"Cannot write {path}: there is no directory {path.parent}.")
    if path.exists() and not path.is_file():
        raise CommandError(f"Cannot write {path}: it is no regular file.")
    with _explained(path), files.beside(path):
        pass


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """A directory for results, made if need be; gone again if nothing was written there."""
    made = not path.exists()
    if path.exists() and not path.is_dir():
        raise CommandError(f"Cannot write to {path}: it is no directory.")
    with _explained(path):
        path.mkdir(exist_ok=True)
    try:
        with _explained(path), files.beside(path / "result"):
            pass
        yield
    finally:
        if made and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def write_tensors(path: Path, entries: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with _whole(path) as temporary:
        safetensors.torch.save_file(entries, temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with _whole(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    with _explained(path), files.whole(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CommandError(f"Cannot write {path}: {files.reason(error)}.") from error
