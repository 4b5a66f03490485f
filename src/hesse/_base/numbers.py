"""Numbers as people read them."""

from __future__ import annotations

from hesse._base.memory import readable as memory

__all__ = ["duration", "memory", "number"]


def number(value: float, digits: int = 6) -> str:
    """So many significant digits, with a true minus sign."""
    return f"{value:.{digits}g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
