"""The tables of what questions take: eigenvalues, traces, solves."""

from collections.abc import Callable
from statistics import mean
from typing import Any

from benchmarks.views import MISSING, escape, markdown, milliseconds

METHODS = ("hutchinson", "hutch++", "xtrace", "auto")


def of(results: dict[str, Any], group: str) -> dict[str, Any]:
    """The parts of a group by their own names."""
    return {name.partition("/")[2]: part for name, part in results["parts"].items() if name.startswith(f"{group}/")}


def eigenvalues(results: dict[str, Any]) -> str:
    """Seconds of everybody, of the first accurate attempt and of all until then; the worst residual, and products."""
    rows = []
    for part in of(results, "eigenvalues").values():
        for name, row in part.get("solvers", {}).items():
            cells = [part["title"], name, MISSING, MISSING, MISSING, MISSING, escape(row.get("problem") or "")]
            if not row.get("problem"):
                cells[2] = milliseconds(row["median_seconds"])
                cells[3] = MISSING if row["speedup"] is None else f"{1 / row['speedup']:.2f}"
                cells[4] = milliseconds(row["attempts_seconds"])
                cells[5] = f"{row['residual']:.0e}"
                cells[6] = products_of(row)
            rows.append(cells)
    return markdown(
        ["Hessian", "by", "time", "times that of hesse", "with the attempts before", "residual", "products"], rows
    )


def products_of(row: dict[str, Any]) -> str:
    if not row["products"]:
        return escape(row["effort"])
    looking = f", {row['looking']} of them to look for missing ones" if row["looking"] else ""
    return f"{row['products']}{looking} ({escape(row['effort'])})"


def eigenvalue_products(results: dict[str, Any]) -> str:
    """Means over seeds of what the search takes, of the look for missing ones, and of ARPACK on the same operator."""
    rows = []
    for part in of(results, "eigenvalues").values():
        if "products" in part:
            ours, theirs = (part["products"][name] for name in ("hesse", "SciPy on hesse's operator"))
            search, looking, arpack = (mean(counts) for counts in (ours["search"], ours["looking"], theirs["search"]))
            ratio = f"{search / arpack:.2f}"
            rows.append([part["title"], f"{search:.1f}", f"{looking:.1f}", f"{arpack:.1f}", ratio])
    return markdown(["Hessian", "hesse, search", "hesse, looking", "ARPACK", "search / ARPACK"], rows)


def traces(results: dict[str, Any]) -> str:
    """Products to one percent, with the error made; in parentheses how many seeds of five did not get there."""
    rows = []
    for name, part in of(results, "trace").items():
        cells = []
        for method in METHODS:
            row = part[method]
            missed = f" ({5 - row['converged']} of 5 not)" if row["converged"] < 5 else ""
            cells.append(f"{row['products']:.0f}{missed}")
        ratio = part["hutchinson"]["products"] / part["auto"]["products"]
        rows.append([escape(name), *cells, f"{ratio:.2f}"])
    return markdown(["eigenvalues", *METHODS, "hutchinson / auto"], rows)


def solves(results: dict[str, Any]) -> str:
    """Products to a residual of 1e-8, with the true residual made; SciPy's steps until its iterate has that."""
    rows = []
    for name, part in of(results, "solve").items():
        for method, row in part.items():
            theirs = MISSING if row["scipy"] is None else str(row["scipy"])
            rows.append([escape(name), method, str(row["hesse"]), theirs])
    return markdown(["system", "method", "hesse", "SciPy"], rows)


VIEWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "eigenvalues": eigenvalues,
    "eigenvalue-products": eigenvalue_products,
    "traces": traces,
    "solves": solves,
}
