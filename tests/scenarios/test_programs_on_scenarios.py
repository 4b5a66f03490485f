"""The compiled engine on every scenario: right, or refused by the name of an operator or a line.

Run without a compiler, so that capturing, making functional and parting are what is judged; a sample goes through
Inductor, and the whole table does among the exhaustive tests.
"""

from __future__ import annotations

import pytest
import torch

import hesse
from hesse._linearize.program.backends import OPERATORS

from ..linearize import programs
from .comparison import assert_close, assert_product, assert_structured_like, random_vectors
from .flat import flat, unflat
from .scenario import Scenario
from .table import EVERY_SCENARIO, SCENARIOS, names
from .test_operators_on_scenarios import FOLLOWED, counted, differenced_gradient
from .uncaptured import UNCAPTURED

COMPILED = [
    "lennard_jones_gathered_pairs",
    "dropout_in_training",
    "convolution_followed_by_group_norm",
    "changes_of_views_in_place",
    "input_that_is_captured_as_well",
]
"""By Inductor: a gather, a drawing function, changes in place, convolutions.

Other tests compile chains (linearize/test_stencils.py), networks (data/test_programs.py) and attention
(rules/test_attention.py).
"""


@EVERY_SCENARIO
@pytest.mark.one_in(67)
def test_a_hessian_by_a_program_is_right_or_refused_by_name(scenario: Scenario) -> None:
    case = scenario.build()
    if scenario.name in UNCAPTURED:
        with pytest.raises(hesse.CaptureError, match=UNCAPTURED[scenario.name]):
            programs.hessian(case.func, case.inputs)
        return
    func, calls = counted(case.func)
    _require_products(scenario, programs.hessian(func, case.inputs))
    # What it counts on stand-ins is put back, so this is the evaluation on the point.
    assert len(calls) == (2 if scenario.name in FOLLOWED else 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - UNCAPTURED.keys()))
def test_a_hessian_by_a_graph_run_operator_by_operator_is_right(name: str) -> None:
    scenario = SCENARIOS[name]
    case = scenario.build()
    _require_products(scenario, programs.hessian(case.func, case.inputs, backend=OPERATORS))


@EVERY_SCENARIO
@pytest.mark.one_in(79)
def test_a_jacobian_by_a_program_is_right_or_refused_by_name(scenario: Scenario) -> None:
    case = scenario.build()
    if scenario.name in UNCAPTURED:
        with pytest.raises(hesse.CaptureError, match=UNCAPTURED[scenario.name]):
            programs.jacobian(case.func, case.inputs)
        return
    J = programs.jacobian(case.func, case.inputs)
    gradient, size, tolerance = differenced_gradient(scenario)
    pulled = J.T @ torch.full_like(J.value, 2.0)
    assert_structured_like(pulled, case.inputs)
    assert_close(flat(pulled), 2 * gradient, tolerance, 2 * size)
    vector = random_vectors(len(gradient), 1)[0]
    pushed = J @ unflat(vector, case.inputs)
    assert_close(pushed.reshape(()), gradient @ vector, tolerance, len(gradient) * size)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.one_in(3)
def test_a_compiled_hessian_is_right(name: str) -> None:
    case = SCENARIOS[name].build()
    _require_products(SCENARIOS[name], hesse.Hessian(case.func, case.inputs, engine="compiled"))


@pytest.mark.inductor
@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS.values() if scenario.name not in UNCAPTURED],
    ids=names(scenario for scenario in SCENARIOS.values() if scenario.name not in UNCAPTURED),
)
def test_every_compiled_hessian_is_right(scenario: Scenario) -> None:
    case = scenario.build()
    _require_products(scenario, hesse.Hessian(case.func, case.inputs, engine="compiled"))


def _require_products(scenario: Scenario, H: hesse.Hessian) -> None:
    case, reference = scenario.build(), scenario.reference
    assert H.explain().engine == "compiled"
    assert_close(H.value.reshape(()), reference.value, reference.tolerance)
    assert_structured_like(H.gradient, case.inputs)
    assert_close(flat(H.gradient), reference.gradient, reference.tolerance)
    generator = torch.get_rng_state()
    columns = random_vectors(reference.n, 3).T
    structured = H @ unflat(columns[:, 0], case.inputs)
    assert_structured_like(structured, case.inputs)
    assert_product(flat(structured), reference.hessian, columns[:, 0], reference.tolerance)
    assert_product(H @ columns.to(H.dtype), reference.hessian, columns, reference.tolerance)
    assert torch.equal(torch.get_rng_state(), generator)
