"""The table of tests by release of PyTorch."""

from typing import Any

from benchmarks.views import markdown


def versions(results: dict[str, Any]) -> str:
    rows = [
        [release, row["python"], *[f"{row[name]:,}" for name in COLUMNS], row["date"]]
        for release, row in results["releases"].items()
    ]
    return markdown(["PyTorch", "Python", *COLUMNS.values(), "date"], rows)


COLUMNS = {
    "modules": "test modules",
    "passed": "passed",
    "failed": "failed",
    "skipped": "skipped",
    "expected": "expected failures",
}
