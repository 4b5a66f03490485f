"""The contract functions on every scenario."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse

from .comparison import (
    assert_close,
    assert_product,
    assert_structured_like,
    random_vectors,
)
from .flat import flat, leaves_of, unflat
from .scenario import Scenario
from .table import EVERY_SCENARIO, SCENARIOS, WITHOUT_SECOND_DERIVATIVE, has_complex_inputs, names
from .unbatchable import UNBATCHABLE


@EVERY_SCENARIO
def test_vhp_is_right(scenario: Scenario) -> None:
    _require_products(scenario, hesse.vhp)


@pytest.mark.skipif(not WITHOUT_SECOND_DERIVATIVE, reason="this PyTorch differentiates every scenario twice")
def test_what_this_pytorch_cannot_differentiate_twice_is_refused_by_name() -> None:
    for scenario in WITHOUT_SECOND_DERIVATIVE.values():
        case = scenario.build()
        with pytest.raises(hesse.NoDerivativeError, match="grid_sampler_2d_backward"):
            hesse.Hessian(case.func, case.inputs).to_dense()


@EVERY_SCENARIO
@pytest.mark.one_in(7)
def test_hvp_is_right(scenario: Scenario) -> None:
    _require_products(scenario, hesse.hvp)


def _require_products(scenario: Scenario, product: Callable[..., tuple[Tensor, Any]]) -> None:
    reference = scenario.reference
    for vector in random_vectors(reference.n, 2):
        # Built anew for each product: a function that draws has to draw the same again.
        case = scenario.build()
        value, result = product(case.func, case.inputs, unflat(vector, case.inputs))
        assert_close(value.reshape(()), reference.value, reference.tolerance)
        assert_structured_like(result, case.inputs)
        assert_product(flat(result), reference.hessian, vector, reference.tolerance)


REAL = [scenario for scenario in SCENARIOS.values() if not has_complex_inputs(scenario)]
COMPLEX = [scenario for scenario in SCENARIOS.values() if has_complex_inputs(scenario)]


@pytest.mark.parametrize("scenario", REAL, ids=names(REAL))
@pytest.mark.one_in(7)
def test_the_whole_hessian_is_right_row_by_row(scenario: Scenario) -> None:
    case = scenario.build()
    blocks = hesse.functional.hessian(case.func, case.inputs)
    assert_close(_dense(blocks, leaves_of(case.inputs)), scenario.reference.hessian, scenario.reference.tolerance)


@pytest.mark.parametrize("scenario", REAL, ids=names(REAL))
@pytest.mark.one_in(7)
def test_the_whole_hessian_is_right_in_a_batch(scenario: Scenario) -> None:
    case = scenario.build()
    if scenario.name in UNBATCHABLE:
        with pytest.raises(RuntimeError):
            hesse.functional.hessian(case.func, case.inputs, vectorize=True)
        return
    blocks = hesse.functional.hessian(case.func, case.inputs, vectorize=True)
    assert_close(_dense(blocks, leaves_of(case.inputs)), scenario.reference.hessian, scenario.reference.tolerance)


@pytest.mark.parametrize("scenario", COMPLEX, ids=names(COMPLEX))
def test_the_hessian_of_complex_inputs_is_refused_row_by_row(scenario: Scenario) -> None:
    case = scenario.build()
    with pytest.raises(RuntimeError, match="needs real outputs"):
        hesse.functional.hessian(case.func, case.inputs)


def _dense(blocks: Any, leaves: list[Tensor]) -> Tensor:
    """The blocks, a structure of structures, as one matrix in flat order."""
    parts = iter(leaves_of(blocks))
    return torch.cat(
        [
            torch.cat([next(parts).double().reshape(row.numel(), column.numel()) for column in leaves], 1)
            for row in leaves
        ]
    )
