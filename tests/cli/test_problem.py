"""``hesse.Problem`` holds what it was given, and refuses the rest in one sentence."""

from __future__ import annotations

import dataclasses
import doctest

import pytest
import torch

import hesse
import hesse._operators.problem


def test_a_problem_is_frozen_and_compared_by_identity():
    inputs = torch.ones(2)
    problem = hesse.Problem(func=torch.sum, inputs=inputs)
    assert problem.inputs is inputs
    assert problem != hesse.Problem(func=torch.sum, inputs=inputs)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.inputs = 1


@pytest.mark.parametrize(
    ("func", "inputs", "error", "message"),
    [
        (None, torch.ones(2), TypeError, "func given to Problem must be callable but has type <class 'NoneType'>"),
        (torch.sum, 1.0, TypeError, "inputs given to Problem must be either a Tensor or a tuple of Tensors"),
        (torch.sum, torch.arange(2), RuntimeError, "must be floating-point or complex"),
        (torch.sum, (), ValueError, "at least one Tensor"),
    ],
)
def test_what_is_no_problem_is_one_sentence(func, inputs, error, message):
    with pytest.raises(error, match=message):
        hesse.Problem(func=func, inputs=inputs)


def test_the_example_of_the_docstring_runs():
    assert doctest.testmod(hesse._operators.problem).failed == 0
