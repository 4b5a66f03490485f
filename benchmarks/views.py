"""The tables: each a function from results to Markdown."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.machine import least_seconds

HEADINGS = {
    "summary": "Summary",
    "lone": "A lone product",
    "one": "Replays, one vector",
    "many": "Replays, 16 vectors at once",
    "machine": "Distance to the machine",
    "memory": "Memory",
    "problems": "What was not measured, and why",
    "environment": "Environment",
}
MISSING = "–"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def contestants(results: dict[str, Any]) -> list[str]:
    return list(results["workloads"][0]["contestants"]) if results["workloads"] else []


def measured(workload: dict[str, Any], contestant: str, column: str) -> dict[str, Any] | None:
    """The times of a contestant in a column, if it has any."""
    row = workload["contestants"].get(contestant, {}).get("columns", {}).get(column)
    return row if row and row["problem"] is None else None


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def times(speedup: float | None) -> str:
    return MISSING if speedup is None else f"{speedup:.2f}x" if speedup < 10 else f"{speedup:.0f}x"


def speeds(results: dict[str, Any], column: str) -> str:
    """The baseline in milliseconds; the others as how many times faster than it, the fastest in bold."""
    baseline = results["baseline"]
    others = [name for name in contestants(results) if name != baseline]
    rows = []
    for workload in results["workloads"]:
        base = measured(workload, baseline, column)
        found = {name: measured(workload, name, column) for name in others}
        speedups = {name: row["speedup"] for name, row in found.items() if row and row["speedup"]}
        best = max(speedups, key=lambda name: speedups[name]) if speedups else None
        cells = [f"**{times(speedups[n])}**" if n == best else times(speedups.get(n)) for n in others]
        rows.append([workload["title"], milliseconds(base["median_seconds"]) if base else MISSING, *cells])
    return markdown(["workload", baseline, *others], rows)


def summary(results: dict[str, Any]) -> str:
    """hesse in all columns, the fastest peer beside its replays, and what counting products predicts."""
    baseline = results["baseline"]
    ours = [name for name in contestants(results) if name.startswith("hesse")]
    # hessian-eigenthings begins like us but is a peer.
    ours = [name for name in ours if not name.startswith("hessian")]
    rows = []
    for workload in results["workloads"]:
        row = [workload["title"]]
        for column in ("lone", "one", "many"):
            row.append(times(fastest(workload, ours, column)[1]))
        peers = [name for name in contestants(results) if name not in (*ours, baseline)]
        name, speedup = fastest(workload, peers, "one")
        row.append(f"{times(speedup)} ({name})" if name else MISSING)
        row.append(times(workload.get("counted_ratio")))
        rows.append(row)
    header = ["workload", "lone", "replay", "replay of 16", "fastest peer's replay", "counted"]
    return markdown(header, rows)


def fastest(workload: dict[str, Any], names: list[str], column: str) -> tuple[str | None, float | None]:
    found = {name: measured(workload, name, column) for name in names}
    speedups = {name: row["speedup"] for name, row in found.items() if row and row["speedup"]}
    if not speedups:
        return None, None
    best = max(speedups, key=lambda name: speedups[name])
    return best, speedups[best]


def distance(results: dict[str, Any]) -> str:
    """What of the machine's best hesse's replays reach, and what bounds them."""
    ours = [name for name in contestants(results) if name.split()[0] == "hesse"]
    rows = []
    for workload in results["workloads"]:
        if "machine" not in workload:
            continue
        least, limit = least_seconds(workload["machine"])
        found = [measured(workload, name, "one") for name in ours]
        reached = [f"{100 * least / row['median_seconds']:.0f} %" if row else MISSING for row in found]
        rows.append([workload["title"], milliseconds(least), limit, *reached])
    return markdown(["workload", "at least", "bound by", *ours], rows)


def memory(results: dict[str, Any]) -> str:
    """MiB beyond the peak of a gradient: with one vector, then with all; of right answers only."""
    names = contestants(results)
    rows = []
    for workload in results["workloads"]:
        peaks = {name: workload["contestants"][name].get("memory") for name in names}
        cells = [
            " / ".join(
                f"{peak[f'{column}_mib']:.0f}" if measured(workload, name, column) else MISSING
                for column in ("one", "many")
            )
            if peak and peak["problem"] is None
            else MISSING
            for name, peak in peaks.items()
        ]
        rows.append([workload["title"], *cells])
    return markdown(["workload", *names], rows)


def problems(results: dict[str, Any]) -> str:
    """Each reason once, with the contestant and the workloads it concerns."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for workload in results["workloads"]:
        for name, result in workload["contestants"].items():
            columns = result["columns"]
            found = {column: row["problem"] for column, row in columns.items() if row["problem"]}
            if result["problem"]:
                found = {"": result["problem"]}
            for reason in dict.fromkeys(found.values()):
                where = [column for column, problem in found.items() if problem == reason]
                everywhere = where in ([""], list(columns))
                note = "" if everywhere else f" ({', '.join(where)})"
                reasons[name, reason].append(workload["name"] + note)
    if not reasons:
        return "Every contestant ran every workload."
    return "\n".join(f"- {name}, {', '.join(where)}: {escape(reason)}" for (name, reason), where in reasons.items())


def escape(text: str) -> str:
    """Text from elsewhere, so that Markdown shows it as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>[]|" else letter for letter in text)


def environment(results: dict[str, Any]) -> str:
    found = results["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version)
    commit = f"{found['commit'][:12]}" if found["commit"] else "unknown"
    changed = " with uncommitted changes" if found["uncommitted_changes"] else ""
    machine = [
        found["processor"],
        f"{found['cores']} cores",
        f"{found['memory_gib']} GiB",
        found["system"],
        f"{found['torch_threads']} torch threads",
        found["dtype"],
    ]
    return (
        f"- {', '.join(machine)}\n"
        f"- Python {found['python']}, {packages}\n"
        f"- commit {commit}{changed}, {found['date'][:10]}"
    )


VIEWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "summary": summary,
    "lone": lambda results: speeds(results, "lone"),
    "one": lambda results: speeds(results, "one"),
    "many": lambda results: speeds(results, "many"),
    "machine": distance,
    "memory": memory,
    "problems": problems,
    "environment": environment,
}
