"""The table of training gradients of a loss of forces."""

from typing import Any

from benchmarks.views import markdown, milliseconds, times


def forces(results: dict[str, Any]) -> str:
    """What a training gradient takes each way, and how far the losses of a training come apart."""
    rows = [
        [
            row["way"],
            milliseconds(row["seconds"]),
            times(row["ratio"]),
            f"{row['first_seconds']:.1f} s",
            f"{row['loss_difference']:.0e}" if row["loss_difference"] else "0",
        ]
        for row in results["rows"]
    ]
    return markdown(
        [
            results["title"],
            "a training gradient",
            "against PyTorch",
            "the first one",
            "losses in float64 differ by at most",
        ],
        rows,
    )
