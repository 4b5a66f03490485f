"""Without the packages of ``hesse[cli]``: the library works, and the command says in a sentence what it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hesse._cli

ROOT = Path(__file__).parents[2]
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({hesse._cli.PACKAGES!r}))\n"


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)


def test_the_library_does_without_them():
    done = run(
        BLOCKED
        + """
import hesse, torch
H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.arange(1.0, 41.0))
print(round(float(hesse.trace(H, method="exact", progress=True).estimate)))
print(hesse.Problem(func=lambda x: (x**2).sum(), inputs=torch.ones(2)).operator() @ torch.ones(2))
print(hesse.check(lambda x: (x**3).sum(), torch.ones(2)).ok)
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["22140", "tensor([2., 2.])", "True"]
    assert done.stderr == "trace: 40 of 1000, 40 of 40 entries of the diagonal\n"


def test_importing_the_library_imports_none_of_them():
    done = run(f"import hesse, sys; print([name for name in {hesse._cli.PACKAGES!r} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("missing", [*([name] for name in hesse._cli.PACKAGES), list(hesse._cli.PACKAGES)], ids=str)
def test_the_command_says_what_it_needs_before_any_work(missing):
    program = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\nfrom hesse._cli import main; main()"
    done = run(program, "spectrum", "problem.py", "--out", "report")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hesse: The command needs {' and '.join(missing)}, which ")
    assert line.endswith(" Install them by: pip install 'hesse[cli]'")


def test_a_package_that_breaks_when_it_is_looked_for_counts_as_missing():
    program = """
import sys
class Broken:
    def find_spec(self, name, *_):
        if name == "jinja2":
            raise ModuleNotFoundError("no such thing")
sys.meta_path.insert(0, Broken())
from hesse._cli import main; main()
"""
    done = run(program, "--help")
    assert done.returncode == 2
    assert done.stderr.startswith("hesse: The command needs jinja2, which is not installed.")


def test_the_package_asks_for_them_in_its_extra_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(line.partition(">")[0] for line in project["dependencies"]) == [
        "numpy",
        "safetensors",
        "scipy",
        "torch",
    ]
    extras = project["optional-dependencies"]
    assert sorted(extras["cli"]) == sorted(hesse._cli.PACKAGES)
    assert any("cli" in line for line in extras["dev"] if line.startswith("hesse["))
    assert project["scripts"] == {"hesse": "hesse._cli:main"}
