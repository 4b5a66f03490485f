"""The table of attention over long sequences."""

from typing import Any

from benchmarks.views import MISSING, markdown, milliseconds, times


def attention(results: dict[str, Any]) -> str:
    """The baseline's time and memory; the others' as how many times faster, and their memory."""
    names = list(results["lengths"][0]["contestants"])
    rows = []
    for measured in results["lengths"]:
        cells = []
        for name in names:
            row = measured["contestants"].get(name)
            memory = measured["extra_mib"].get(name, {}).get("extra_mib")
            if row is None:
                cells.append(MISSING)
                continue
            # The baseline, and what has none beside it, as a time.
            is_ratio = row["speedup"] is not None and name != names[0]
            time = times(row["speedup"]) if is_ratio else milliseconds(row["median_seconds"])
            cells.append(f"{time}, {memory:.0f} MiB" if memory is not None else time)
        rows.append([str(measured["length"]), *cells])
    return markdown(["tokens", *names], rows)
