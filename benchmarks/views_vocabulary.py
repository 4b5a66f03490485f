"""The table of large vocabularies."""

from typing import Any

from benchmarks.views import markdown, milliseconds


def vocabulary(results: dict[str, Any]) -> str:
    """Seconds and peak memory of a process, and what part they are of the first one's."""
    found = results["contestants"]
    first = next(iter(found.values()))
    rows = [
        [
            name,
            f"{milliseconds(row['seconds'])} ({row['seconds'] / first['seconds']:.2f})",
            f"{row['peak']:.0f} MiB ({row['peak'] / first['peak']:.2f})",
        ]
        for name, row in found.items()
    ]
    return markdown(["vhp", "time", "peak of the process"], rows)
