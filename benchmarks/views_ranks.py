"""The table of products by several processes."""

from typing import Any

from benchmarks.views import markdown, milliseconds


def ranks(results: dict[str, Any]) -> str:
    """A product's time, reductions and error, by library and number of processes."""
    rows = []
    for row in results["rows"]:
        for name, figures in row["libraries"].items():
            told = (
                [figures["problem"], "", "", ""]
                if "problem" in figures
                else [
                    milliseconds(figures["seconds"]),
                    str(figures["reductions"]),
                    f"{figures['numbers']:.2f}",
                    f"{figures['error']:.0e}",
                ]
            )
            rows.append([str(row["processes"]), name, *told])
    return markdown(["processes", "library", "a product", "reductions", "numbers / n", "relative error"], rows)
