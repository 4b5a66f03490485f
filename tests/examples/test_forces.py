"""The example that trains on forces takes the way of plain double backwards."""

from __future__ import annotations

import pytest

from hesse._linearize.program.backends import EAGER
from tests.linearize import programs

from .load import FOLDER, example


def test_both_ways_have_the_same_losses_which_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    with programs.running(EAGER):
        found = example("forces").ways(steps=40)
    (plain, _), (compiled, _) = found["plain"], found["compiled"]
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert plain[-1] < 0.5 * plain[0]
