"""Errors of capturing, compiling and comparing, each as one sentence."""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import traceback
from collections.abc import Callable, Iterator

from hesse._autograd.provenance import is_users
from hesse._base.errors import CaptureError, first_line
from hesse._base.interrupts import is_unrelated

_NEXT_SENTENCE = r"\.\s+(?=[A-Z])"


@contextlib.contextmanager
def refused(describe: Callable[[Exception], str]) -> Iterator[None]:
    """Raise an error as a :class:`CaptureError` that ``describe`` gives the text of.

    A lack of memory and what a handler of signals raises pass through: they say nothing about the function.
    """
    try:
        yield
    except Exception as error:
        if is_unrelated(error):
            raise
        raise CaptureError(describe(error)) from error


def described(doing: str) -> Callable[[Exception], str]:
    """The description of an error raised while ``doing`` something."""

    def describe(error: Exception) -> str:
        if isinstance(error, CaptureError):
            return str(error)
        # PyTorch lists what to do about missing kernels in one line of many sentences.
        return f"{doing} raises {type(error).__name__}: {re.split(_NEXT_SENTENCE, first_line(error))[0]}"

    return describe


def while_capturing(error: Exception) -> str:
    """The description of an error of a function on stand-ins, with the user's line."""
    operator = getattr(error, "func", None)
    if operator is not None and not isinstance(error, CaptureError):
        return f"{operator} needs the values of a tensor{_line(error)}"
    return f"{described('without data it')(error)}{_line(error)}"


def _line(error: Exception) -> str:
    # Code that PyTorch generates belongs to no module.
    calls = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if "__name__" in frame.f_globals]
    found = [(frame.f_code.co_filename, line) for frame, line in calls if is_users(frame.f_code.co_filename)]
    if not found:
        return ""
    file, line = found[-1]
    return f" ({os.path.basename(file)}, line {line}: {linecache.getline(file, line).strip()})"
