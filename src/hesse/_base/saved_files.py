"""A folder of files that may go at any time: written whole, the least recently used removed beyond a size."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from hesse._base.files import whole

VARIABLE = "HESSE_CACHE_DIR"
MOST_BYTES = 256 * 2**20


def folder() -> Path | None:
    """Where files are saved: in ``HESSE_CACHE_DIR``, or the user's cache; None where that variable is empty."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "hesse"
    except RuntimeError:  # nobody's home
        return None


def read(name: str) -> bytes | None:
    """A file's content, if it is there and nobody else can have written it."""
    place = folder()
    if place is None:
        return None
    try:
        if not _is_own(place):
            return None
        content = (place / name).read_bytes()
        with contextlib.suppress(OSError):
            os.utime(place / name)
    except OSError:
        return None
    return content


def write(name: str, content: bytes) -> None:
    """Save a file; nothing happens where the folder cannot be written."""
    place = folder()
    if place is None:
        return
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_own(place):
            with whole(place / name) as path:
                path.write_bytes(content)
            _bound(place, place / name)


def remove(name: str) -> None:
    """Remove a file, if it is there."""
    place = folder()
    if place is not None:
        with contextlib.suppress(OSError):
            (place / name).unlink()


def clear(suffix: str) -> int:
    """Remove all files with this suffix; how many there were."""
    place = folder()
    files = _files(place, suffix) if place is not None else []
    for _, _, path in files:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(files)


def _bound(place: Path, newest: Path) -> None:
    """Remove what was used least recently, until the files take no more than they may."""
    files = [entry for entry in _files(place, newest.suffix) if entry[2] != newest]
    total = newest.stat().st_size + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def _files(place: Path, suffix: str) -> list[tuple[int, int, Path]]:
    """When each file was used last, its size and its path."""
    found = []
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.suffix == suffix and stat.S_ISREG(status.st_mode):
                    found.append((status.st_mtime_ns, status.st_size, path))
    return found


def _is_own(path: Path) -> bool:
    """Whether a path is this user's and no other can write it; Windows has no such owners."""
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
