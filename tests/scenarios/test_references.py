"""The references are judged against each other before anything of hesse is judged by them."""

from __future__ import annotations

import pytest

from .comparison import assert_close
from .scenario import Scenario
from .table import EVERY_SCENARIO, FAMILIES, SCENARIOS, WITHOUT_SECOND_DERIVATIVE, names
from .unbatchable import UNBATCHABLE

CLOSED_FORMS = [scenario for scenario in SCENARIOS.values() if scenario.build().hessian is not None]


def test_there_are_many_scenarios_and_no_name_stands_twice() -> None:
    found = [entry for family in FAMILIES for entry in vars(family).values() if isinstance(entry, Scenario)]
    assert len(SCENARIOS) + len(WITHOUT_SECOND_DERIVATIVE) == len(found) >= 45


def test_the_lists_of_exceptions_name_scenarios() -> None:
    assert UNBATCHABLE.keys() <= SCENARIOS.keys()


@pytest.mark.parametrize("scenario", CLOSED_FORMS, ids=names(CLOSED_FORMS))
def test_a_closed_form_agrees_with_finite_differences(scenario: Scenario) -> None:
    assert_close(scenario.differenced_hessian, scenario.reference.hessian, 1e-9)


@EVERY_SCENARIO
@pytest.mark.one_in(4)
def test_autograds_gradient_agrees_with_differences_of_the_value(scenario: Scenario) -> None:
    value = abs(float(scenario.reference.value))
    gradient = scenario.reference.gradient
    size = max(value, float(gradient.abs().max()))
    assert_close(scenario.differenced_gradient, gradient, 1e-8, size)


@EVERY_SCENARIO
@pytest.mark.one_in(4)
def test_a_reference_is_symmetric(scenario: Scenario) -> None:
    hessian = scenario.reference.hessian
    assert hessian.shape == (scenario.reference.n, scenario.reference.n)
    assert_close(hessian, hessian.T, 1e-7)
