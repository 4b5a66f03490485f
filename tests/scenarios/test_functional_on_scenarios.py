"""The contract functions on every scenario."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from scenarios.comparison import (
    assert_close,
    assert_product,
    assert_structured_like,
    random_vectors,
)
from scenarios.flat import flat, leaves_of, unflat
from scenarios.scenario import Scenario
from scenarios.table import SCENARIOS
from scenarios.unbatchable import UNBATCHABLE

EVERY_SCENARIO = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())


@EVERY_SCENARIO
@pytest.mark.parametrize("product", [hesse.vhp, hesse.hvp], ids=["vhp", "hvp"])
def test_a_product_is_right(scenario: Scenario, product: Any) -> None:
    reference = scenario.reference
    for vector in random_vectors(reference.n, 2):
        # Built anew for each product: a function that draws has to draw the same again.
        case = scenario.build()
        value, result = product(case.func, case.inputs, unflat(vector, case.inputs))
        assert_close(value.reshape(()), reference.value, reference.tolerance)
        assert_structured_like(result, case.inputs)
        assert_product(flat(result), reference.hessian, vector, reference.tolerance)


@EVERY_SCENARIO
@pytest.mark.parametrize("vectorize", [False, True], ids=["row by row", "in a batch"])
def test_the_whole_hessian_is_right(scenario: Scenario, vectorize: bool) -> None:
    case = scenario.build()
    leaves = leaves_of(case.inputs)
    if any(leaf.is_complex() for leaf in leaves):
        with pytest.raises(RuntimeError, match="needs real outputs"):
            hesse.functional.hessian(case.func, case.inputs, vectorize=vectorize)
        return
    if vectorize and scenario.name in UNBATCHABLE:
        with pytest.raises(RuntimeError):
            hesse.functional.hessian(case.func, case.inputs, vectorize=True)
        return
    blocks = hesse.functional.hessian(case.func, case.inputs, vectorize=vectorize)
    assert_close(_dense(blocks, leaves), scenario.reference.hessian, scenario.reference.tolerance)


def _dense(blocks: Any, leaves: list[Tensor]) -> Tensor:
    """The blocks, a structure of structures, as one matrix in flat order."""
    parts = iter(leaves_of(blocks))
    rows = [
        torch.cat([next(parts).double().reshape(row.numel(), column.numel()) for column in leaves], 1) for row in leaves
    ]
    return torch.cat(rows)
