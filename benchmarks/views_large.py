"""The table of a language model with 1e8 parameters."""

from typing import Any

from benchmarks.views import markdown

# What is aimed at, in the words of the table.
AIMS = {"product": "1.1x", "fifty products": "1.05x", "resident set": "within 10 %"}


def large(results: dict[str, Any]) -> str:
    """One line for each measurement: what was found, and what was aimed at."""
    lines = []
    for name, row in results["rows"].items():
        if "problem" in row:
            lines.append([name, row["problem"], "–"])
        elif name == "product":
            found = f"{row['seconds']:.3g} s, {row['ratio']:.2f}x of the bare double backward"
            lines.append([f"a product, {row['parameters']:,} parameters", found, AIMS[name]])
        elif name == "beside JAX":
            for contestant, seconds in row["seconds"].items():
                kept = row["keeping"][contestant]
                found = f"{1000 * seconds:.0f} ms, {1000 * kept:.0f} ms in a process that gives no memory back"
                lines.append([f"{contestant}, {row['title']}", found, "–"])
        elif name == "fifty products":
            ratio = row["seconds"] / row["keeping"]
            found = f"{row['seconds']:.3g} s, {ratio:.2f}x of a process that gives no memory back"
            lines.append([f"{name} of a question", found, AIMS[name]])
            change = 100 * (row["after"] / row["before"] - 1)
            found = f"{row['before']:,.0f} MiB before, {row['after']:,.0f} MiB afterwards ({change:+.0f} %)"
            lines.append(["resident set", found, AIMS["resident set"]])
        else:
            found = f"{row['resident']:.1f} vectors of the resident set, {row['allocated']:.1f} of the allocator"
            lines.append([f"`{name}`", found, f"{row['least']} vectors"])
    return markdown(["", "measured", "aim"], lines)
