"""What may go wrong, whose it is, and how that is told: one sentence (exit code 2) or a traceback (exit code 1)."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import typer

INTERRUPTED = 130
_PACKAGE = Path(__file__).parents[1]


class CommandError(Exception):
    """What the command was asked cannot be done; the message is a sentence that says why."""


class UserError(Exception):
    """The user's code failed with ``error``; ``hint`` is a sentence on what may have led there."""

    def __init__(self, error: BaseException, hint: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error, self.hint), self.__dict__


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Around a command's body: failures are printed on standard error and become exit codes."""
    try:
        yield
    except CommandError as refusal:
        typer.echo(f"hesse: {refusal}", err=True)
        raise typer.Exit(2) from refusal
    except UserError as failure:
        typer.echo(_their_traceback(failure.error), err=True, nl=False)
        if failure.hint:
            typer.echo(f"hesse: {failure.hint}", err=True)
        raise typer.Exit(1) from failure
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(INTERRUPTED) from interrupt
    except OSError as error:
        # Files are named by who writes them, and a closed pipe is typer's matter.
        if error.filename is not None or error.errno == errno.EPIPE:
            raise
        typer.echo(f"hesse: Cannot write to standard output: {error.strerror}.", err=True)
        # What is left in the buffer would be written again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(2) from error


@contextlib.contextmanager
def attributed(hint: str = "") -> Iterator[None]:
    """Around hesse's work with the user's function: errors become a ``CommandError`` or a ``UserError``.

    What hesse itself raises is about what it was given; what PyTorch raises below it is about the function.
    """
    try:
        yield
    except (CommandError, UserError):
        raise
    except Exception as error:
        if isinstance(error, TypeError | ValueError | RuntimeError | MemoryError) and _is_ours(_codes(error)[-1]):
            raise CommandError(sentence(error)) from error
        raise UserError(error, hint) from error


def sentence(error: BaseException) -> str:
    """The message of an error on one line that ends with a full stop; its type where there is no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text[-1] in ".!?" else f"{text}."


def raised_in(error: BaseException, code: CodeType) -> bool:
    """Whether a function was running when the error was raised."""
    return code in _codes(error)


def _codes(error: BaseException) -> list[CodeType]:
    return [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_ours(code: CodeType) -> bool:
    return Path(code.co_filename).is_relative_to(_PACKAGE)


def _their_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not hesse's own."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))
