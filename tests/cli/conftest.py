"""Fixtures of the command's tests: a folder of its own, problem files in it, and the command run in this process."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hesse._cli.app import app

QUARTIC = """
    import hesse, torch

    def problem():
        return hesse.Problem(func=lambda x: (x**4).sum(), inputs=torch.tensor([1.0, 2.0, 3.0]))
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The current directory is empty, and the command leaves path and generator as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with torch.random.fork_rng():
        yield


@pytest.fixture
def write_problem() -> Callable[..., Path]:
    """Writes a problem file into the current directory."""

    def write(source: str = QUARTIC, name: str = "problem.py") -> Path:
        path = Path(name)
        path.write_text(textwrap.dedent(source))
        return path

    return write


@pytest.fixture
def hesse_command() -> Callable[..., Any]:
    """Runs ``hesse`` with the given words in this process."""

    def run(*words: object, columns: int = 200) -> Any:
        return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(columns)})

    return run
