"""Pages that are kept between products: counted in a process of its own, whose heap nobody else has used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hesse._base import pages

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator whose pages are kept is glibc's")
def test_pages_are_kept_while_they_should_be() -> None:
    checks = str(Path(__file__).with_name("keeping_pages.py"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", checks]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stdout[-8000:]
    assert " passed" in run.stdout


def test_a_vector_in_large_pages_is_memory_like_any_other() -> None:
    for size in (0, 3, 2**20 + 3):
        made = pages.empty(size, torch.float64, torch.device("cpu"))
        assert float(made.fill_(0.5).sum()) == size / 2
        assert made.resize_(2 * size)[:size].sum() == size / 2


def test_zeros_are_zero_and_are_written_like_any_others() -> None:
    for length in (3, 2**20 + 3):
        made = pages.zeros(2, length, torch.float64, torch.device("cpu"))
        assert made.shape == (2, length)
        assert float(made.sum()) == 0
        made.mT[:, 1] = 0.5
        assert float(made.sum()) == length / 2
