"""How far the work has come: a bar on terminals, lines of text elsewhere and without rich."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import pytest
import torch

import hesse
from hesse._base import progress
from hesse._base.progress import Bar

ASK = """
import os, sys
import torch, hesse
data = [(torch.ones(2, 3), torch.zeros(2, 1))] * 4
sys.modules["rich"] = None
for stderr in sys.argv[1:]:
    os.dup2(int(stderr), 2)
    os.close(int(stderr))
    hesse.trace(torch.diag(torch.linspace(1, 2, 40)), method="exact", progress=True)
    hesse.LossHessian(torch.nn.Linear(3, 1), torch.nn.MSELoss(), data, progress=True).value
    sys.modules.pop("rich", None)
"""


@pytest.fixture(scope="module")
def shown() -> list[bytes]:
    """What one process writes to standard error: to a terminal without rich, to one with it, and to a pipe."""
    ours, theirs = zip(pty.openpty(), pty.openpty(), os.pipe(), strict=True)
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, *map(str, theirs)],
        pass_fds=theirs,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    )
    for end in theirs:
        os.close(end)
    found = [_read(end) for end in ours]
    assert process.communicate()[0] == b""
    assert process.returncode == 0, found
    return found


def _read(end: int) -> bytes:
    read = b""
    # The end of a pseudoterminal is an error on Linux.
    with contextlib.suppress(OSError):
        while chunk := os.read(end, 65536):
            read += chunk
    os.close(end)
    return read


def test_lines_come_when_they_are_due_and_at_the_end(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("eigsh", 300) as _:
        pass
    assert capsys.readouterr().err == ""
    bar = Bar("eigsh", 300)
    with bar:
        for count, when in ((1, 1.0), (2, 9.9), (3, 10.0), (4, 15.0), (5, 19.9), (6, 31.0), (7, 32.0)):
            now[0] = when
            bar.update(count, f"{count} of 9 converged")
    assert capsys.readouterr().err.splitlines() == [
        "eigsh: 3 of 300, 3 of 9 converged",
        "eigsh: 6 of 300, 6 of 9 converged",
        "eigsh: 7 of 300, 7 of 9 converged",
    ]


def test_what_has_no_end_in_sight_and_no_status_is_counted(capsys):
    bar = Bar("LossHessian: batches", None)
    with bar:
        bar.update(17, "")
    assert capsys.readouterr().err == "LossHessian: batches: 17\n"


def test_short_work_that_comes_by_the_thousand_is_not_told(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for long in (False, True):
        bar = Bar("LossHessian: batches", 3, last=False)
        with bar:
            for count in (1, 2, 3):
                now[0] += 11.0 if long and count < 3 else 0.1
                bar.update(count, "")
        assert capsys.readouterr().err.splitlines() == [f"LossHessian: batches: {n} of 3" for n in (1, 2, 3) if long]


def test_an_error_speaks_for_itself(capsys):
    def work():
        bar = Bar("trace", 10)
        with bar:
            bar.update(3, "")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        work()
    assert capsys.readouterr().err == ""


def test_a_question_says_how_far_it_came(capsys):
    hesse.trace(torch.diag(torch.linspace(1, 2, 40)), method="exact", progress=True)
    assert capsys.readouterr().err.startswith("trace: 40 of 1000")


def test_where_nobody_watches_there_are_plain_lines(shown):
    # A pass over data is told where it takes long: there may be thousands.
    assert shown[2] == b"trace: 40 of 1000, 40 of 40 entries of the diagonal\n"


def test_a_terminal_without_rich_shows_lines(shown):
    assert b"\x1b" not in shown[0]
    assert shown[0].startswith(b"trace: 40 of 1000")


def test_a_terminal_shows_a_bar_which_goes_away(shown):
    assert b"\x1b[2K" in shown[1]
    assert b"40/1000" in shown[1]
    assert b"trace: 40 of 1000" not in shown[1]


@pytest.mark.parametrize(("terminal", "watched"), [("xterm", True), ("dumb", False)])
def test_a_terminal_without_control_codes_shows_no_bar(terminal, watched, monkeypatch):
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert progress.is_watched() is watched


def test_a_notebook_shows_a_bar_where_rich_can_draw_one(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    assert not progress.is_watched()
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: name)
    assert progress.is_watched()
