"""Ctrl-C at random instants: no abort, and the model and the process are as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.exhaustive
def test_an_interrupt_at_any_instant_leaves_everything_as_it_was() -> None:
    """Of each use at forty instants; those that are known to need care: linearize/test_interrupts.py."""
    command = [sys.executable, "-m", "tests.training.random_interrupts", "40", "0"]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
