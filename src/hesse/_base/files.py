"""Files that are written whole or not at all: beside their place first, then moved there in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to fill, which then takes the place of ``path``; an older one stays unless the new one is complete."""
    with beside(path) as temporary:
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
def beside(path: Path) -> Iterator[Path]:
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
