"""The table of products that keep less and less."""

from typing import Any

from benchmarks.views import markdown, milliseconds, times


def recomputation(results: dict[str, Any]) -> str:
    """What is kept beside the inputs, and what a product takes then."""
    rows = [
        [
            workload["title"],
            row["kind"],
            f"{row['kept'] / 2**20:.1f} MiB",
            milliseconds(row["seconds"]),
            times(row["ratio"]),
        ]
        for workload in results["workloads"]
        for row in workload["rows"]
    ]
    return markdown(["workload", "engine", "kept between products", "a product", "against the tape"], rows)
