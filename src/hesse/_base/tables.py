"""Results as text: labelled lines, and small tables with right-aligned columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# A longer table is cut, so that it fits on a screen.
MOST_ROWS = 20
# A relative half width below this shows in no digit.
ROUNDING = 1e-9


def labelled(rows: Iterable[tuple[str, str]]) -> str:
    """A line for each pair of a label and its text, with all texts below one another."""
    rows = list(rows)
    width = max([len(label) for label, _ in rows], default=0) + 2
    return "\n".join([f"{label:<{width}}{text}" for label, text in rows])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A header and numbered rows, of which a long table shows the first."""
    shown = [["", *header], *[[str(number), *row] for number, row in enumerate(rows[:MOST_ROWS], start=1)]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join([f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]) for row in shown]
    more = [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return "\n".join([*lines, *more])


def estimate(value: float, interval: tuple[float, float], confidence: float) -> str:
    """A number with the half width of its interval, or as exact where that is rounding."""
    half = 0.5 * (interval[1] - interval[0])
    return f"{value:.6g} (exact)" if half <= ROUNDING * abs(value) else f"{value:.6g} ± {half:.2g} ({confidence:.0%})"


def yes(value: bool) -> str:
    """A truth value as a word."""
    return "yes" if value else "no"
