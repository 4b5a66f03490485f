"""Writes the tables of README.md and of pages of docs from the results files.

    python -m benchmarks.table           replace the tables
    python -m benchmarks.table --check   exit with 1 where one is stale

A page says where a table goes by a pair of comments, `<!-- benchmark:begin cpu/one -->` and
`<!-- benchmark:end cpu/one -->`: the results file, and one of the views in views.py, or another of its own.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results_file, views, views_data, views_engines, views_minimize, views_questions
from benchmarks.processes import REPOSITORY
from benchmarks.views_attention import attention
from benchmarks.views_forces import forces
from benchmarks.views_large import large
from benchmarks.views_question_memory import question_memory
from benchmarks.views_ranks import ranks
from benchmarks.views_recomputation import recomputation
from benchmarks.views_sparse import sparse
from benchmarks.views_versions import versions
from benchmarks.views_vocabulary import vocabulary

PAGES = (
    REPOSITORY / "README.md",
    *[REPOSITORY / "docs" / f"{name}.md" for name in ("accelerators", "benchmarks", "ranks", "releases", "sparse")],
)
MARKED = re.compile(
    r"(?P<begin><!-- benchmark:begin (?P<name>[\w./-]+) -->\n).*?"
    r"(?P<end><!-- benchmark:end (?P=name) -->)",
    re.DOTALL,
)
MARKER = re.compile(r"<!-- benchmark:(?:begin|end) ")


def render(results: dict[str, Any], view: str) -> str:
    """One view of the results in Markdown; the view "all" is every one under its own heading."""
    if view != "all":
        others = {
            "attention": attention,
            "forces": forces,
            "large": large,
            "vocabulary": vocabulary,
            "recomputation": recomputation,
            "versions": versions,
            "question_memory": question_memory,
            "ranks": ranks,
            "sparse": sparse,
        }
        others |= {**views_data.VIEWS, **views_questions.VIEWS, **views_engines.VIEWS, **views_minimize.VIEWS}
        return {**views.VIEWS, **others}[view](results)
    return "\n\n".join(f"### {views.HEADINGS[name]}\n\n{render(results, name)}" for name in views.VIEWS)


def replace_tables(text: str, folder: Path = results_file.FOLDER) -> str:
    """The text of a page with each marked table rendered anew."""

    def replacement(match: re.Match[str]) -> str:
        file, _, view = match["name"].partition("/")
        results = results_file.read(folder / f"{file}.json")
        return f"{match['begin']}{render(results, view or 'all')}\n{match['end']}"

    replaced, count = MARKED.subn(replacement, text)
    if len(MARKER.findall(text)) != 2 * count:
        raise ValueError("A benchmark marker lacks its partner; each begin needs an end of the same name.")
    return replaced


def main(
    arguments: Sequence[str] | None = None,
    pages: Sequence[Path] = PAGES,
    folder: Path = results_file.FOLDER,
) -> int:
    parser = argparse.ArgumentParser(prog="table", description="Write the tables from the results files.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if one is stale")
    check = parser.parse_args(arguments).check
    stale = []
    for page in pages:
        if not page.exists():
            continue
        text = page.read_text(encoding="utf-8")
        replaced = replace_tables(text, folder)
        if replaced != text:
            stale.append(page.name)
            if not check:
                page.write_text(replaced, encoding="utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
