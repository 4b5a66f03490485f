"""Values and errors on their way to other ranks."""

from __future__ import annotations

import pickle
from typing import Any

from hesse._base.errors import first_line


def packed(error: BaseException) -> bytes:
    """An error to be raised elsewhere: itself, or a ``RuntimeError`` with its name and text where it cannot be sent."""
    try:
        sent = pickle.dumps(error)
        pickle.loads(sent)
    except Exception:  # whatever a class of the user's raises when it is copied
        sent = pickle.dumps(RuntimeError(f"{type(error).__name__}: {first_line(error)}"))
    return sent


def unpacked(sent: bytes, rank: int) -> BaseException:
    """The error of another rank."""
    error: BaseException = pickle.loads(sent)
    error.add_note(f"Raised on rank {rank}.")
    return error


def plain(value: Any) -> str:
    """A value as a sentence shows it, no longer than that."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
