"""`python -m benchmarks` runs the benchmarks, also without any of the peers."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words):
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.exhaustive
def test_the_package_is_a_command():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python -m benchmarks ")
    assert run("--workload", "nothing").returncode == 2


@pytest.mark.exhaustive
def test_a_trial_of_one_workload_prints_its_table():
    done = run("--quick", "--no-memory", "--workload", "rosenbrock", "--contestant", "hesse")
    assert done.returncode == 0, done.stderr
    assert "Rosenbrock" in done.stdout
    assert "hesse" in done.stdout
