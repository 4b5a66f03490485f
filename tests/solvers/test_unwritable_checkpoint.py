"""A checkpoint that cannot be written: the question says so, goes on, says it again at its end; same digits."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

import hesse

from .known_matrices import with_eigenvalues

MATRIX = with_eigenvalues(torch.linspace(1, 100, 60, dtype=torch.float64).numpy())
RIGHT = torch.linspace(1, 2, 60, dtype=torch.float64)


def solve(path=None, callback=None):
    return hesse.solve(MATRIX, RIGHT, tol=1e-10, checkpoint=path, callback=callback)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir()
    return made


def test_a_question_whose_folder_goes_away_goes_on_and_says_so_twice(folder):
    path = hesse.Checkpoint(folder / "state", seconds=0)

    def lose(progress):
        if progress.num_products > 10:
            shutil.rmtree(folder, ignore_errors=True)

    with pytest.warns(hesse.CheckpointWarning) as told:
        found = solve(path, lose)
    assert torch.equal(found.solution, solve().solution)
    first, last = [str(each.message) for each in told]
    assert first == (
        f"The checkpoint {path.path} cannot be written: No such file or directory. solve goes on without it, and will"
        " try again."
    )
    assert last.startswith(
        f"At the end of solve the checkpoint {path.path} was never written: No such file or directory."
    )
    assert {each.filename for each in told} == {__file__}


def test_once_it_can_be_written_again_nothing_is_said_at_the_end(folder):
    path = hesse.Checkpoint(folder / "state", seconds=0)
    calls = []

    def lose_and_find(progress):
        calls.append(progress.num_products)
        if len(calls) == 5:
            shutil.rmtree(folder)
        if len(calls) == 9:
            folder.mkdir()

    with pytest.warns(hesse.CheckpointWarning, match="cannot be written") as told:
        found = solve(path, lose_and_find)
    assert len(told) == 1
    assert len(calls) > 12
    again = solve(path)
    assert torch.equal(again.solution, found.solution)


def test_an_error_that_is_not_of_the_disk_is_raised(folder, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("hesse._solvers.checkpoint_file.write", broken)
    with pytest.raises(ZeroDivisionError):
        solve(hesse.Checkpoint(folder / "state", seconds=0))


def test_no_memory_for_a_copy_of_the_state_does_not_end_the_question(folder, monkeypatch):
    def short(*_):
        raise MemoryError

    monkeypatch.setattr("hesse._solvers.checkpoint_file.write", short)
    with pytest.warns(hesse.CheckpointWarning) as told:
        assert solve(hesse.Checkpoint(folder / "state", seconds=0)).converged
    assert "cannot be written: Out of memory. solve goes on" in str(told[0].message)


FULL = """
import resource, sys, torch, hesse
import numpy as np
from tests.solvers.known_matrices import with_eigenvalues

torch.set_num_threads(1)
matrix = with_eigenvalues(np.concatenate([np.linspace(-1, 1, 144), np.full(3, 1.5), [1.2, -1.3, -1.3]]))
kept = None if sys.argv[1] == "none" else hesse.Checkpoint(sys.argv[1], seconds=0)
limit = int(sys.argv[2])
if limit:
    # Writing on past this size fails, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
found = hesse.eigsh(matrix, 4, which="LA", rng=3, checkpoint=kept)
print(found.values.tolist(), found.vectors.tolist(), found.num_products)
"""


def ask(path, limit: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", FULL, str(path), str(limit)], capture_output=True, text=True
    )


@pytest.mark.exhaustive
def test_a_disk_that_fills_costs_no_digit_and_what_was_written_before_is_gone_on_from(tmp_path):
    wanted = ask("none")
    assert wanted.returncode == 0, wanted.stderr
    path = tmp_path / "state"
    filled = ask(path, 60_000)
    assert filled.returncode == 0, filled.stderr
    assert filled.stdout == wanted.stdout
    told = [line.partition("CheckpointWarning: ")[2] for line in filled.stderr.splitlines()]
    first, last = [line for line in told if line]
    assert first == (
        f"The checkpoint {path} cannot be written: File too large. eigsh goes on without it, and will try again."
    )
    assert f"At the end of eigsh the checkpoint {path} holds an earlier state only: File too large." in last
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    again = ask(path)
    assert again.stdout == wanted.stdout, again.stderr
    assert again.stderr == ""
