"""The tables of what minimizing takes, and of which minima it ends at."""

from collections.abc import Callable
from typing import Any

from benchmarks.views import MISSING, escape, markdown

PEER = "SciPy trust-krylov on hesse"
# Values of one minimum differ by no more, relative to the larger one or to the second number.
SAME, LEAST = 1e-3, 0.1


def names(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for task in results["tasks"] for name in task["minimizers"]))


def took(row: dict[str, Any] | None) -> str:
    """Products, and evaluations in parentheses; in brackets where the gradient was not reached."""
    if row is None or row["problem"]:
        return MISSING
    made = MISSING if row["products"] is None else str(row["products"])
    text = f"{made} ({row['evaluations']})"
    return text if row["reached"] else f"[{text}]"


def products(results: dict[str, Any]) -> str:
    """What everybody takes for each task, and in all against SciPy over the same tasks."""
    everybody = names(results)
    rows = [
        [task["title"], str(task["size"]), *[took(task["minimizers"].get(name)) for name in everybody]]
        for task in results["tasks"]
    ]
    totals = []
    for name in everybody:
        pairs = [
            (task["minimizers"][name]["products"], task["minimizers"][PEER]["products"])
            for task in results["tasks"]
            if task["minimizers"].get(name, {}).get("products") is not None
            and task["minimizers"][PEER].get("products") is not None
        ]
        ours, theirs = (sum(part) for part in zip(*pairs, strict=True)) if pairs else (0, 0)
        totals.append(f"{ours}, {ours / theirs:.2f} of SciPy's {theirs}" if theirs else MISSING)
    rows.append(["in all", "", *totals])
    return markdown(["problem", "n", *everybody], rows)


def values(results: dict[str, Any]) -> str:
    """Where not all end at one value, and what went wrong."""
    lines = []
    for task in results["tasks"]:
        found = {name: row["value"] for name, row in task["minimizers"].items() if row.get("reached")}
        if found:
            low, high = min(found.values()), max(found.values())
            if high - low > SAME * max(LEAST, abs(low), abs(high)):
                each = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
                lines.append(f"- {task['title']}: {each}")
        for name, row in task["minimizers"].items():
            if row["problem"]:
                lines.append(f"- {task['title']}, {name}: {escape(row['problem'])}")
            elif not row["reached"]:
                slope = "not finite" if row["gradient"] is None else f"{row['gradient']:.1e}"
                lines.append(f"- {task['title']}, {name}: the gradient is {slope}, not {task['target']:.1e}")
    return "\n".join(lines) or "All end at the same values."


VIEWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "minimize-products": products,
    "minimize-values": values,
}
