"""The problem file that README shows can be given to the command."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from hesse._cli.app import app

README = Path(__file__).parents[1] / "README.md"


def test_the_problem_file_of_the_readme_has_a_spectrum(tmp_path, monkeypatch):
    text = README.read_text()
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def problem" in block]
    command = re.search(r"^hesse (spectrum problem\.py .*)$", text, re.MULTILINE).group(1)
    monkeypatch.chdir(tmp_path)
    Path("problem.py").write_text(source)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    assert "The page is report/index.html" in result.stdout
    for name in re.findall(r"`(\w+\.\w+)`", text[text.index("In `report` are") :].partition(" Ctrl-C")[0]):
        assert (Path("report") / name).is_file()
