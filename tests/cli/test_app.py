"""The command as a whole: help whose examples work, version, and ``python -m hesse``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hesse
from hesse._cli.app import describe


def run_module(*words: str) -> subprocess.CompletedProcess[str]:
    # Warnings as errors, for the command itself must make none.
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "hesse", *words], capture_output=True, text=True, check=False
    )


def test_the_module_is_the_command(write_problem):
    finished = run_module("vhp", str(write_problem()), "--out", "p.safetensors")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert "vᵀHv" in finished.stdout
    assert "\x1b" not in finished.stdout
    assert Path("p.safetensors").is_file()


def test_ctrl_c_is_exit_code_130_and_leaves_nothing(write_problem):
    path = write_problem(
        """
        import os, signal
        import hesse, torch

        def func(x):
            os.kill(os.getpid(), signal.SIGINT)
            return (x**4).sum()

        def problem():
            return hesse.Problem(func=func, inputs=torch.ones(2))
        """
    )
    finished = run_module("vhp", str(path), "--out", "p.safetensors")
    assert finished.returncode == 130
    assert finished.stdout == finished.stderr == ""
    assert [entry.name for entry in Path().iterdir()] == ["problem.py"]


@pytest.mark.exhaustive
def test_the_examples_of_the_help_work(write_problem, hesse_command):
    overview = hesse_command("--help")
    assert overview.exit_code == 0
    source = textwrap.dedent(describe.__doc__.partition("problem():\n\n")[2].partition("    Then:")[0])
    assert all(line.strip() in overview.stdout for line in source.splitlines())
    write_problem(source)
    examples = _examples(overview.stdout)
    for command, count in (("vhp", 4), ("spectrum", 5)):
        found = _examples(hesse_command(command, "--help").stdout)
        assert len(found) == count
        assert all(example.startswith(f"hesse {command} ") for example in found)
        examples += found
    assert len(examples) >= 9
    for example in examples:
        result = hesse_command(*shlex.split(example)[1:])
        assert result.exit_code == 0, (example, result.output)


def _examples(text: str) -> list[str]:
    """Lines of a help that are commands on the problem file."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("hesse ") and ".py" in line]


@pytest.mark.parametrize(
    ("words", "place", "offered"), [("hesse s", 1, "spectrum"), ("hesse spectrum p.py --bot", 3, "--bottom")]
)
@pytest.mark.one_in(2)
def test_a_shell_completes_commands_and_options(words, place, offered):
    environment = {**os.environ, "_HESSE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    finished = subprocess.run([sys.executable, "-m", "hesse"], capture_output=True, text=True, env=environment)
    assert finished.stdout.splitlines() == [offered]


def test_the_version_is_the_packages(hesse_command):
    assert hesse_command("--version").stdout == f"hesse {hesse.__version__}\n"


def test_the_command_has_no_benchmarks(hesse_command):
    assert "bench" not in hesse_command("--help").stdout
    assert hesse_command("bench").exit_code == 2
