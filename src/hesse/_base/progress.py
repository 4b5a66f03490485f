"""A bar on standard error while a question makes its products."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """One line that shows how many of ``total`` products are made, and what is known by then; on terminals only."""

    def __init__(self, title: str, total: int | None) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            transient=True,
            # Where nobody watches, rich would leave an empty line.
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, status="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, count: int, status: str) -> None:
        """Show a new count and status."""
        self._progress.update(self._task, completed=count, status=status)
