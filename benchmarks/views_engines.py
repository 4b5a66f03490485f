"""The tables of engines: first products, points that move, what they decide, dense Hessians, many vectors at once."""

from typing import Any

from benchmarks.views import MISSING, markdown


def engines(results: dict[str, Any]) -> str:
    """All products by the tape and by what was decided for."""
    rows = [
        [
            row["title"],
            str(row["products"]),
            f"{row['tape']:.1f} s",
            f"{row['auto']:.1f} s",
            f"{row['auto'] / row['tape']:.2f}",
            row["engine"],
        ]
        for row in results["rows"]
        if "problem" not in row
    ]
    return markdown(["workload", "products", "tape", "auto", "auto / tape", "decided for"], rows)


def dense(results: dict[str, Any]) -> str:
    """The dense Hessian by each engine, as a part of a loop of single products by the tape."""
    rows = [
        [one["asked"], one["engine"], f"{one['made']:.1f} s", f"{one['seconds']:.1f} s", f"{one['ratio']:.2f}"]
        for row in results["rows"]
        for one in row.get("dense", ())
    ]
    return markdown(["engine=", "by", "to make the operator", "`to_dense()`", "of the loop"], rows)


def vectors(results: dict[str, Any]) -> str:
    """Milliseconds a vector and MiB that a call adds, for one, sixteen and sixty-four vectors at once."""
    rows = []
    for row in results["rows"]:
        if row.get("problem"):
            rows.append([f"{row['workload']}, {row['asked']}", row["problem"], MISSING, MISSING, MISSING])
            continue
        times = [
            f"{one['seconds_a_vector'] * 1e3:.3g} ({one['ratio']:.2f}x), {one['bytes_added'] / 2**20:.1f}"
            for one in row["vectors"]
        ]
        rows.append([f"{row['workload']}, {row['asked']}", *times, f"{row['batching']}, {row['chunk']}"])
    return markdown(["workload, engine", "1", "16", "64", "chosen"], rows)


def moving(results: dict[str, Any]) -> str:
    """A new point for each product: times PyTorch's own, and of JAX's speed."""
    rows = []
    for row in results["rows"]:
        found = row.get("contestants", {})
        torch, ours, jax = (found.get(who, {}) for who in ("torch", "hesse", "JAX"))
        rows.append(
            [
                row["title"],
                f"{torch['seconds'] * 1e3:.3g} ms" if "seconds" in torch else MISSING,
                *[
                    f"{one[what]:.2f}x" if what in one else MISSING
                    for one, what in ((ours, "speedup"), (ours, "with_checks"), (jax, "speedup"))
                ],
                f"{ours['speedup'] / jax['speedup']:.2f}" if "speedup" in ours and "speedup" in jax else MISSING,
            ]
        )
    headings = ["workload", "torch", "hesse compiled", "with its checks", "JAX jitted", "hesse of JAX"]
    note = f"\n\n{results['note']}" if results["note"] else ""
    return markdown(headings, rows) + note


FIRST = {"new": "hesse", "saved": "hesse", "JAX": "JAX"}
"""The processes of a row of ``benchmarks.first``, and who computes there."""


def first(results: dict[str, Any]) -> str:
    """Seconds of the wall to the first compiled product of each process, and of the processors in parentheses."""
    rows = [
        [
            row["title"],
            *[
                MISSING
                if row[key].get("problem")
                else f"{row[key]['seconds']:.1f} s ({row[key]['processor_seconds']:.1f})"
                for key in FIRST
            ],
        ]
        for row in results["rows"]
    ]
    return markdown(["workload", "nothing saved", "a second process", "JAX"], rows)


VIEWS = {"first": first, "moving": moving, "engines": engines, "dense": dense, "vectors": vectors}
