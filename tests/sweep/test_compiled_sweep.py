"""A product by a program through every operator of PyTorch's database: right, or refused by name.

Captured, made functional and parted, and run without a compiler: every twenty-fourth operator, and all of them among
the exhaustive tests. There every eighth goes through Inductor, and all of them do by a command of its own (see
``compiled.py``).
"""

from __future__ import annotations

import pytest

from hesse._linearize.program.backends import EAGER
from hesse._linearize.program.backends import OPERATORS as AS_CAPTURED

from .compiled import verdict
from .sweep import cases_of
from .test_operator_sweep import OPERATORS
from .test_operator_sweep import pytestmark as pytestmark  # the same remarks of PyTorch about its own samples
from .uncaptured import DRAWS, WITHOUT_A_PROGRAM

CAPTURED = sorted(OPERATORS.keys() - WITHOUT_A_PROGRAM.keys())
SAMPLE = CAPTURED[::8]


@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.one_in(150)
def test_a_program_is_right_through_an_operator(name: str) -> None:
    found = verdict(name, next(cases_of(OPERATORS[name])), EAGER)
    assert found == "right" or DRAWS in found


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CAPTURED)
def test_a_graph_run_operator_by_operator_is_right_through_an_operator(name: str) -> None:
    found = verdict(name, next(cases_of(OPERATORS[name])), AS_CAPTURED)
    assert found == "right" or DRAWS in found


@pytest.mark.parametrize("name", sorted(WITHOUT_A_PROGRAM))
@pytest.mark.one_in(4)
def test_a_refusal_names_what_no_program_can_hold(name: str) -> None:
    found = verdict(name, next(cases_of(OPERATORS[name])), EAGER)
    assert found.startswith("refused")
    assert WITHOUT_A_PROGRAM[name] in found


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SAMPLE)
def test_a_compiled_program_is_right_through_an_operator(name: str) -> None:
    assert len(SAMPLE) >= 60
    found = verdict(name, next(cases_of(OPERATORS[name])))
    assert found == "right" or DRAWS in found
