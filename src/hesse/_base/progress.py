"""How far the work has come, on standard error: a bar where rich is installed and someone watches, else lines."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

# At least so long between two lines.
SECONDS = 10.0


class Bar:
    """How many of ``total`` products or batches are done, and what is known by then.

    In a terminal or a notebook it is a bar of rich's, which goes at the end. Elsewhere, and where rich is not
    installed, it is lines of text: one every ten seconds, and the last one.

    Args:
        title: of what.
        total: how many there will be, if that is known.
        last: whether the last line is shown of work that was done before any was due.
    """

    def __new__(cls, *arguments: Any, **words: Any) -> Bar:
        """Of rich's, or of lines."""
        return super().__new__(_Rich if is_watched() else Bar)

    def __init__(self, title: str, total: int | None, *, last: bool = True) -> None:
        self._title, self._of = title, "" if total is None else f" of {total}"
        self._line, self._last = "", last

    def __enter__(self) -> None:
        self._shown = time.monotonic()

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None and self._line and self._last:
            self._show()

    def update(self, count: int, status: str) -> None:
        """Show a new count and status."""
        self._line = f"{self._title}: {count}{self._of}" + (f", {status}" if status else "")
        if time.monotonic() - self._shown >= SECONDS:
            self._show()

    def _show(self) -> None:
        print(self._line, file=sys.stderr, flush=True)
        self._line, self._last, self._shown = "", True, time.monotonic()


class _Rich(Bar):
    def __init__(self, title: str, total: int | None, *, last: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, status="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, count: int, status: str) -> None:
        """Show a new count and status."""
        self._progress.update(self._task, completed=count, status=status)


def is_watched() -> bool:
    """Whether a bar can be drawn."""
    try:
        from rich.console import Console
    except ImportError:
        return False
    console = Console(stderr=True)
    if console.is_jupyter:
        # rich draws in notebooks by this package only.
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal
