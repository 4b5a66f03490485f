"""The command as a whole: help whose examples work, version, ``python -m hesse``, and the way to the benchmarks."""

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
def test_a_shell_completes_commands_and_options(words, place, offered):
    environment = {**os.environ, "_HESSE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    finished = subprocess.run([sys.executable, "-m", "hesse"], capture_output=True, text=True, env=environment)
    assert finished.stdout.splitlines() == [offered]


def test_the_version_is_the_packages(hesse_command):
    assert hesse_command("--version").stdout == f"hesse {hesse.__version__}\n"


def test_the_benchmarks_of_the_source_tree_are_run_with_the_arguments_and_their_exit_code(
    write_problem, monkeypatch, capfd, hesse_command
):
    Path("benchmarks").mkdir()
    Path("deeper").mkdir()
    write_problem("import os, sys\nprint(os.getcwd(), sys.argv[1:])\nsys.exit(7)\n", "benchmarks/run.py")
    monkeypatch.chdir("deeper")
    result = hesse_command("bench", "--quick", "--workload", "mlp")
    assert result.exit_code == 7
    assert capfd.readouterr().out == f"{Path.cwd()} ['--quick', '--workload', 'mlp']\n"


def test_without_a_source_tree_there_are_no_benchmarks(hesse_command):
    result = hesse_command("bench")
    assert result.exit_code == 2
    assert result.stderr.startswith("hesse: There is no benchmarks/run.py in ")
    assert len(result.stderr.splitlines()) == 1
