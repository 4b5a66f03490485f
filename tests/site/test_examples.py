"""Every example of README and of the site is run: by pytest where it has prompts, else here or as listed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hesse._cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Blocks of Python that are not ours to run, by page, and why.
NOT_RUN = {
    "docs/coming-from.md": "other libraries' code, which the benchmark runs",
    "docs/limits.md": "needs several ranks; tests/distributed has the same",
    "docs/ranks.md": "needs several ranks; examples/ranks.py and sharded.py have the same, and tests run them",
    "docs/memory.md": "a line with names of the reader",
    "docs/rules.md": "a rule that is in the source",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def plain(page: Path) -> list[str]:
    """Blocks of Python without prompts."""
    return [block for block in blocks(page, "python") if ">>> " not in block]


def problem_pages() -> list[Path]:
    return [page for page in PAGES if any("def problem" in block for block in plain(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_without_prompts_is_a_problem_file_or_listed(page):
    name = str(page.relative_to(ROOT))
    for block in plain(page):
        compile(block, name, "exec")
        assert "def problem" in block or name in NOT_RUN, block


def test_what_is_listed_is_there():
    assert all(plain(ROOT / name) for name in NOT_RUN)


def test_get_started_has_a_problem_file():
    assert [str(page.relative_to(ROOT / "docs")) for page in problem_pages()] == ["get-started.md"]


@pytest.mark.parametrize("page", problem_pages(), ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.exhaustive
def test_the_commands_beside_a_problem_file_work_on_it(page, tmp_path, monkeypatch):
    (source,) = plain(page)
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("hesse ")]
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    Path("problem.py").write_text(source)
    for command in commands:
        result = CliRunner().invoke(app, command.split()[1:])
        assert result.exit_code == 0, result.output
    assert "The page is report/index.html" in result.stdout
    text = (ROOT / "docs/command.md").read_text()
    files = re.findall(r"^\| `([\w.]+)` \|", text[text.index("| file in `report`") :], re.MULTILINE)
    assert len(files) == 4
    assert all((Path("report") / name).is_file() for name in files)
