"""Files that are written whole or not at all: in a folder of their own first, then moved in one step."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOCK = "lock"
# How the writers in Rust end the text of an error of the operating system.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


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
    """A fresh empty file on the disk of ``path`` (of what it links to), gone afterwards if still there.

    It lies in a hidden folder, since a writer may keep temporary files of its own beside it. The folder holds a file
    that is locked as long as this process lives.
    """
    clean(path)
    target = path.resolve()
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    folder.mkdir()
    try:
        with (folder / _LOCK).open("w") as lock:
            _lock(lock)
            temporary = folder / "content"
            # Created here, so that the permissions are those of any new file of the user, or of the file replaced.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            if target.exists():
                os.chmod(temporary, target.stat().st_mode & 0o777)
            yield temporary
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clean(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left beside it."""
    target = path.resolve()
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):
        for folder in target.parent.iterdir():
            if pattern.fullmatch(folder.name) and _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Whether no living process holds the folder's lock."""
    try:
        with (folder / _LOCK).open("r+") as lock:
            return _lock(lock)
    except FileNotFoundError:
        return True  # killed before it could lock


def _lock(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; False where another process did, or there are no locks.

    Windows and some network file systems have none; nothing is cleaned there.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def reason(error: BaseException) -> str:
    """Why a file could not be read or written: the operating system's words where it has some, without a full stop."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if found := _OS_ERROR.search(str(error)):
        return os.strerror(int(found[1]))
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
