"""What goes wrong while a function is captured, as one sentence that names the operator and the user's line."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from hesse._base.errors import CaptureError

# Where no line of the user's can be.
_LIBRARIES = (os.path.dirname(torch.__file__), str(Path(__file__).parents[2]))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Whatever goes wrong without data, as one sentence with the line of the user's that it came from."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise CaptureError(f"{_reason(error)}{_place(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, CaptureError):
        return str(error)
    operator = getattr(error, "func", None)
    if operator is not None:
        return f"{operator} needs the values of a tensor"
    first = str(error).strip().split("\n", 1)[0].rstrip(".")
    return f"without data it raises {type(error).__name__}: {first}"


def _place(error: Exception) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_LIBRARIES, "<"))
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({os.path.basename(last.filename)}, line {last.lineno}: {last.line})"
