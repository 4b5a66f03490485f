"""The table of the vectors that questions hold."""

from typing import Any

from benchmarks.views import markdown


def question_memory(results: dict[str, Any]) -> str:
    """The smallest ``memory=`` of each question, and what it holds there."""
    rows = [
        [
            f"`{row['question']}`",
            f"{row['least']} vectors",
            str(row["held"]),
        ]
        for row in results["rows"]
    ]
    return markdown(["question", "smallest `memory=`", "held at the peak there"], rows)
