"""``hesse spectrum --resume``: a killed command goes on, with the digits of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
    import os, signal
    import hesse, torch

    def problem():
        torch.manual_seed(0)
        mixing = torch.randn(60, 60, dtype=torch.float64) / 8
        dies = os.environ.get("DIES_AT")
        products = 0

        class Deadly(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return Counted.apply(gradient)

        class Counted(torch.autograd.Function):
            @staticmethod
            def forward(ctx, gradient):
                return gradient.clone()

            @staticmethod
            def backward(ctx, vector):
                nonlocal products
                products += 1
                if dies and products >= int(dies):
                    os.kill(os.getpid(), signal.SIGKILL)
                return vector

        return hesse.Problem(
            func=lambda x: (mixing @ Deadly.apply(x)).cos().sum(), inputs=torch.linspace(0, 1, 60, dtype=torch.float64)
        )
"""


def run(path: Path, out: str, *words: str, dies_at: int | None = None, before: str = "") -> subprocess.CompletedProcess:
    """The command in a process of its own; it writes its state at every step and times no batch.

    A batch that was timed may round otherwise, and each run that starts anew times its own.
    """
    program = (
        "import hesse, hesse._solvers.checkpoint as c; c.Checkpoint.__init__.__defaults__ = (0.0,);"
        "hesse.Hessian.__init__.__kwdefaults__.update(batching='loop');"
        f"{before}from hesse._cli.app import app; app()"
    )
    command = [sys.executable, "-c", program, "spectrum", str(path), "--top", "3", "--bottom", "2", "--probes", "2"]
    command += ["--steps", "20", "--out", out, *words]
    environment = os.environ | ({"DIES_AT": str(dies_at)} if dies_at else {})
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def digits(out: str) -> dict:
    found = json.loads(Path(out, "result.json").read_text())
    return {name: value for name, value in found.items() if name not in ("command", "seconds", "peak_memory_bytes")}


@pytest.mark.parametrize("deaths", [(30,), pytest.param((60, 30, 15), marks=pytest.mark.exhaustive)], ids=str)
@pytest.mark.exhaustive
def test_a_killed_command_goes_on_with_the_same_digits(write_problem, deaths):
    path = write_problem(SOURCE)
    assert run(path, "whole", "--resume", "another").returncode == 0
    killed = [run(path, "resumed", "--resume", "state", dies_at=at).returncode for at in deaths]
    assert killed[0] == -signal.SIGKILL
    assert not Path("resumed", "result.json").exists()
    done = run(path, "resumed", "--resume", "state")
    assert done.returncode == 0, done.stderr
    assert digits("resumed") == digits("whole")


@pytest.mark.exhaustive
def test_the_state_of_another_problem_is_refused_and_left(write_problem):
    assert run(write_problem(SOURCE), "first", "--resume", "state").returncode == 0
    kept = {file.name: file.read_bytes() for file in Path("state").iterdir()}
    result = run(write_problem(SOURCE.replace("/ 8", "/ 7"), "other.py"), "second", "--resume", "state")
    assert result.returncode == 2
    assert "was written for another operator, or at another point of it" in result.stderr
    assert {file.name: file.read_bytes() for file in Path("state").iterdir()} == kept


def test_a_place_that_is_no_folder_is_refused(write_problem, hesse_command):
    Path("state").write_text("")
    result = hesse_command("spectrum", write_problem(), "--resume", "state")
    assert result.exit_code == 2
    assert "--resume state cannot be made" in result.output


@pytest.mark.exhaustive
def test_a_disk_that_fills_is_told_and_the_answers_are_printed(write_problem):
    path = write_problem(SOURCE)
    # The results in --out are larger than the state of the first question, so nothing is written there.
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (500, r.RLIM_INFINITY));"
    done = run(path, "whole")
    filled = run(path, "filled", "--resume", "state", before=limit)
    told = [line for line in filled.stderr.splitlines() if line.startswith("hesse: ")]
    for question, name in (("trace", "trace"), ("eigsh", "eigenvalues"), ("spectral_density", "density")):
        file = Path("state", f"{name}.safetensors")
        first = (
            f"hesse: The checkpoint {file} cannot be written: File too large. {question} goes on without it, and will"
        )
        last = f"hesse: At the end of {question} the checkpoint {file} was never written: File too large."
        assert sum(line.startswith(first) for line in told) == 1
        assert sum(line.startswith(last) for line in told) == 1
    assert told[-1] == "hesse: Cannot write filled/result.safetensors: File too large."
    assert len(told) == 7
    assert "Traceback" not in filled.stderr
    assert filled.returncode == 2
    answers = [line for line in done.stdout.splitlines() if line.startswith((" 1", " 2", " 3", "trace", "value"))]
    assert len(answers) > 6
    assert all(line in filled.stdout for line in answers)
    assert list(Path("state").iterdir()) == []
