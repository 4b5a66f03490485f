"""The table of sparse Hessians."""

from typing import Any

from benchmarks.views import markdown, times


def sparse(results: dict[str, Any]) -> str:
    """What each contestant's first call, next point and peak memory are, and its colors."""
    rows = []
    for row in results["rows"]:
        for one in ("hesse", "hesse compiled", "asdex"):
            if one not in row:
                rows.append([row["name"], one, row["problems"].get(one, ""), "", "", "", ""])
                continue
            figures = row[one]
            ratios = figures.get("ratios", {})
            rows.append(
                [
                    f"{row['name']}, {figures['size']} variables" if one == "hesse" else "",
                    one if figures.get("agrees", True) else f"{one} (another matrix than asdex's)",
                    _with_ratio(f"{figures['first_seconds']:.2f} s", ratios.get("first_seconds")),
                    _with_ratio(f"{figures['again_seconds']:.3f} s", ratios.get("again_seconds")),
                    _with_ratio(f"{figures['peak_mib']:.0f} MiB", ratios.get("peak_mib")),
                    str(figures["colors"]),
                    str(figures["entries"]),
                ]
            )
    header = ["problem", "by", "first call (of asdex)", "next point (of asdex)", "peak memory", "colors", "entries"]
    return markdown(header, rows)


def _with_ratio(figure: str, ratio: float | None) -> str:
    return figure if ratio is None else f"{figure} ({times(ratio)})"
