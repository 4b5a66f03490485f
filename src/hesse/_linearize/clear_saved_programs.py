"""``clear_saved_programs``: empty the folder of compiled programs."""

from __future__ import annotations

from hesse._base import saved_files

SUFFIX = ".program"
"""How the names of the files of programs end."""


def clear_saved_programs() -> int:
    """Remove the compiled programs that are saved on the disk.

    A program is saved once it agrees with the tape, in the folder that the environment variable ``HESSE_CACHE_DIR``
    names, by default ``hesse`` in the user's cache. Where the variable is empty, no program is saved or read.

    Returns:
        How many files there were: one for each program, and for each step of a recurrent layer's.

    Example:
        >>> import hesse
        >>> removed = hesse.clear_saved_programs()
        >>> hesse.clear_saved_programs()
        0
    """
    return saved_files.clear(SUFFIX)
