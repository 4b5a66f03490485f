"""Writing a result whole or not at all: beside its place first, then moved there in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from hesse.cli.failures import CommandError, sentence


def check(path: Path) -> None:
    """One sentence if nothing could be written to ``path``, to be called before the work is done."""
    if not path.parent.is_dir():
        raise CommandError(f"Cannot write {path}: there is no directory {path.parent}.")
    if path.exists() and not path.is_file():
        raise CommandError(f"Cannot write {path}: it is no regular file.")
    with _explained(path), _beside(path):
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
        with _explained(path), _beside(path / "result"):
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
    """A file to fill, which then takes the place of ``path``; an older one stays unless the new one is complete."""
    with _explained(path), _beside(path) as temporary:
        # The writer may put a file of its own there, closed to others.
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        os.chmod(temporary, mode)
        _sync(temporary)
        target = path.resolve()
        os.replace(temporary, target)
        # The renaming itself lasts once the directory is on the disk.
        _sync(target.parent)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A fresh empty file in the directory of ``path`` (of what it links to), gone afterwards if still there."""
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    # Created here, so that the permissions are those of any new file of the user, or of the file replaced.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o777)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror or sentence(error)}.") from error
    except (ValueError, safetensors.SafetensorError) as error:
        raise CommandError(f"Cannot write {path}: {sentence(error)}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
