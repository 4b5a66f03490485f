"""The tables of products over data."""

from typing import Any

from benchmarks.data_contestants import OURS
from benchmarks.harness import paired_speedup
from benchmarks.views import MISSING, escape, markdown, milliseconds, times

TITLES = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton", "one batch": "Hessian of one batch"}


def _each(results: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every problem and matrix that was measured, with its contestants."""
    return [
        (found["title"], matrix, found["contestants"])
        for problem in results["problems"].values()
        for matrix, found in problem["matrices"].items()
        if not found.get("problem")
    ]


def _names(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for _, _, contestants in _each(results) for name in contestants))


def products(results: dict[str, Any]) -> str:
    """Milliseconds of a product, and in parentheses how many times hesse's fastest that keeps batches is faster."""
    names = _names(results)
    rows = []
    for title, matrix, contestants in _each(results):
        right = {name: row for name, row in contestants.items() if row["problem"] is None}
        keeping = [name for name in right if name in OURS]
        best = min(keeping, key=lambda name: right[name]["median_seconds"], default=None)
        cells = []
        for name in names:
            if name not in right:
                cells.append(MISSING)
                continue
            seconds = milliseconds(right[name]["median_seconds"])
            if best is None or name == best:
                cells.append(f"**{seconds}**")
            else:
                cells.append(f"{seconds} ({times(paired_speedup(right[name]['seconds'], right[best]['seconds']))})")
        rows.append([f"{title}: {TITLES[matrix]}", *cells])
    return markdown(["product with", *names], rows)


def steps(results: dict[str, Any]) -> str:
    """What keeping batches gains over twenty Lanczos steps from a new point, and what counting allows."""
    rows = []
    for problem in results["problems"].values():
        found = problem.get("steps", {})
        if "gain" not in found:
            continue
        title = next(row["title"] for row in problem["matrices"].values() if "title" in row)
        gain = found["gain"].get("tape")
        reached = MISSING if gain is None else f"{gain / found['counted_gain']:.2f}"
        seconds = [milliseconds(found["median_seconds"][name]) for name in found["median_seconds"]]
        rows.append([title, *seconds, times(gain), times(found["counted_gain"]), reached])
    header = ["20 steps", "tape, kept", "tape, recomputed", "compiled, kept", "compiled, recomputed"]
    return markdown([*header, "gain of the tape", "counted", "reached"], rows)


def peaks(results: dict[str, Any]) -> str:
    """MiB of each peer, and of hesse with that as its budget."""
    rows = []
    for problem in results["problems"].values():
        title = next(row["title"] for row in problem["matrices"].values() if "title" in row)
        for peer, row in problem.get("peaks", {}).items():
            ours = [row["hesse"].get(name) for name in OURS]
            cells = [MISSING if one is None or one["mib"] is None else f"{one['mib']:.1f}" for one in ours]
            rows.append([f"{title}: {peer}", MISSING if row["mib"] is None else f"{row['mib']:.1f}", *cells])
    return markdown(["MiB at the peak", "the peer", "hesse within it", "hesse compiled within it"], rows)


def problems(results: dict[str, Any]) -> str:
    """Why a contestant has no number."""
    lines = [
        f"- {name}, {title}, {TITLES[matrix]}: {escape(row['problem'])}"
        for title, matrix, contestants in _each(results)
        for name, row in contestants.items()
        if row["problem"]
    ]
    return "\n".join(lines) or "Every contestant has its numbers."


VIEWS = {"products": products, "steps": steps, "peaks": peaks, "not-measured": problems}


def everything(results: dict[str, Any]) -> str:
    """All tables, one after the other."""
    return "\n\n".join(view(results) for view in VIEWS.values())
