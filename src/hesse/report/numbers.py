"""Numbers as people read them."""

from __future__ import annotations


def number(value: float, digits: int = 6) -> str:
    """So many significant digits, with a true minus sign."""
    return f"{value:.{digits}g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def memory(size: int) -> str:
    """Bytes in the largest binary unit that they fill."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"
