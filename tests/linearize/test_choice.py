"""``hesse.Choice``: how products are made, as it is said, printed and given back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hesse
from hesse._linearize.program.backends import EAGER

from . import programs

X = torch.linspace(-1, 1, 6, dtype=torch.float64)
# The columns of a diagonal matrix, once for a trial and once more.
COLUMNS = torch.eye(6, dtype=torch.float64).repeat(1, 3)


@pytest.mark.parametrize(
    "choice",
    [
        hesse.Choice(),
        hesse.Choice("tape", "vmap", 4),
        hesse.Choice("compiled"),
        hesse.Choice("compiled", "vmap", 16),
    ],
)
def test_a_choice_that_is_given_back_is_followed_at_all_points(choice: hesse.Choice) -> None:
    assert eval(repr(choice), {"Choice": hesse.Choice}) == choice
    with programs.running(EAGER):
        H = hesse.Hessian(lambda x: (x**4).sum(), X, engine=choice)
        for factor in (1.0, 2.0):
            moved = H.at(factor * X)
            torch.testing.assert_close(moved @ COLUMNS, 12 * (factor * X).square().diag().repeat(1, 3))
            assert moved.explain().choice == choice


def test_many_vectors_are_a_loop_before_a_trial() -> None:
    H = hesse.Hessian(lambda x: (x**4).sum(), X)
    assert H.explain().batching == "undecided"
    assert H.explain().choice == hesse.Choice()


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"engine": "jit"}, "engine given to Choice should be one of 'tape', 'compiled' but is 'jit'"),
        ({"batching": "scan"}, "batching given to Choice should be one of 'loop', 'vmap' but is 'scan'"),
        ({"chunk": 0}, "chunk given to Choice should be at least 1 but is 0"),
        ({"chunk": 1.5}, "chunk given to Choice should be a whole number"),
        ({"rows": -1}, "rows given to Choice should be at least 1 but is -1"),
        ({"rows": "all"}, "rows given to Choice should be a whole number"),
        ({"engine": "compiled", "lone": "no"}, "lone given to Choice should be True or False"),
        ({"lone": True}, "lone=True needs engine"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: dict[str, Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        hesse.Choice(**choice)
