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


PROGRAM = (
    BLOCKED
    + """
import hesse, torch
H = hesse.Hessian(lambda x: (x**4).sum() / 12, torch.arange(1.0, 41.0))
print(round(float(hesse.trace(H, method="exact", progress=True).estimate)))
print(hesse.Problem(func=lambda x: (x**2).sum(), inputs=torch.ones(2)).operator() @ torch.ones(2))
print(hesse.check(lambda x: (x**3).sum(), torch.ones(2)).ok)
try:
    hesse.plot(hesse.spectral_density(torch.eye(3), rng=0))
except ImportError as error:
    print(error)
from hesse._cli import main
main()
"""
)


def test_the_library_does_without_them_and_the_command_says_what_it_needs_before_any_work():
    command = [sys.executable, "-c", PROGRAM, "spectrum", "problem.py", "--out", "report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        *["22140", "tensor([2., 2.])", "True"],
        "hesse.plot needs matplotlib. Install it with: pip install matplotlib",
    ]
    assert done.stderr == (
        "trace: 40 of 1000, 40 of 40 entries of the diagonal\n"
        "hesse: The command needs packages that are not installed (typer, rich, matplotlib, jinja2). Install them by"
        " pip install 'hesse[cli]'.\n"
    )
    assert done.returncode == 2


class Broken:
    """A finder that raises, as some environments have them."""

    def find_spec(self, name, *_):
        if name == "typer":
            raise ModuleNotFoundError("no such thing")


@pytest.mark.parametrize("missing", hesse._cli.PACKAGES)
def test_the_command_says_which_lone_package_it_needs(missing, monkeypatch, capsys):
    if missing == "typer":
        monkeypatch.delitem(sys.modules, missing)
        monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        hesse._cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"hesse: The command needs packages that are not installed ({missing}). Install them by pip install"
        " 'hesse[cli]'.\n"
    )


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
