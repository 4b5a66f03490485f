"""The Hessian and Jacobian operators on every scenario, with every batching of many vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from scenarios.comparison import assert_close, assert_product, assert_structured_like, random_vectors
from scenarios.flat import flat, leaves_of, unflat
from scenarios.scenario import Case, Scenario
from scenarios.table import SCENARIOS
from scenarios.unbatchable import UNBATCHABLE

EVERY_SCENARIO = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
EVERY_BATCHING = pytest.mark.parametrize("batching", ["loop", "vmap", "auto"])


def counted(func: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], list[None]]:
    """``func``, and a list that grows by one entry a call."""
    calls: list[None] = []

    def counting(*arguments: Any) -> Tensor:
        calls.append(None)
        return func(*arguments)

    return counting, calls


@EVERY_SCENARIO
@EVERY_BATCHING
def test_a_hessian_is_right(scenario: Scenario, batching: Any) -> None:
    case, reference = scenario.build(), scenario.reference
    func, calls = counted(case.func)
    H = hesse.Hessian(func, case.inputs, batching=batching)
    n, hessian, tolerance = reference.n, reference.hessian, reference.tolerance

    assert H.shape == (n, n)
    assert H.symmetric
    assert_close(H.value.reshape(()), reference.value, tolerance)
    assert_structured_like(H.gradient, case.inputs)
    assert_close(flat(H.gradient), reference.gradient, tolerance)

    columns = random_vectors(n, 5).T
    vector = columns[:, 0]
    structured = H @ unflat(vector, case.inputs)
    assert_structured_like(structured, case.inputs)
    assert_product(flat(structured), hessian, vector, tolerance)
    assert_product(H @ vector.to(H.dtype), hessian, vector, tolerance)

    if batching == "vmap" and scenario.name in UNBATCHABLE:
        with pytest.raises(RuntimeError):
            H @ columns.to(H.dtype)
        return
    assert_product(H @ columns.to(H.dtype), hessian, columns, tolerance)
    dense = H.to_dense()
    assert_close(dense, hessian, tolerance)
    assert_close(dense, dense.T, tolerance)
    assert len(calls) == 1


@EVERY_SCENARIO
@EVERY_BATCHING
def test_the_jacobian_of_a_scalar_function_is_its_gradient(scenario: Scenario, batching: Any) -> None:
    case = scenario.build()
    func, calls = counted(case.func)
    J = hesse.Jacobian(func, case.inputs, batching=batching)
    gradient = scenario.gradient_by_finite_differences()
    n, row = len(gradient), gradient[None]
    # Finite differences of the value are as exact as the value is large.
    tolerance = max(scenario.reference.tolerance, 1e-8)
    size = max(abs(float(scenario.reference.value)), float(gradient.abs().max()))

    assert J.shape == (1, n)
    vector = random_vectors(n, 1)[0]
    directional = gradient @ vector
    pushed = J @ unflat(vector, case.inputs)
    assert pushed.shape == J.value.shape
    assert_close(pushed.reshape(()), directional, tolerance, n * size)
    assert_close(J @ vector.to(J.dtype), directional[None], tolerance, n * size)

    pulled = J.T @ torch.full_like(J.value, 2.0)
    assert_structured_like(pulled, case.inputs)
    assert_close(flat(pulled), 2 * gradient, tolerance, 2 * size)
    assert_close(J.T @ torch.full((1,), 2.0, dtype=J.dtype), 2 * gradient, tolerance, 2 * size)
    assert_close(J.to_dense(), row, tolerance, size)
    assert len(calls) == 1


def gradient_map(case: Case) -> Callable[..., list[Tensor]]:
    """The function's gradient as a list of leaves: a map whose Jacobian is the Hessian."""

    def gradient(*arguments: Any) -> list[Tensor]:
        leaves = leaves_of(arguments)
        output = case.func(*arguments)
        if not output.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        return list(
            torch.autograd.grad(output.sum(), leaves, create_graph=True, allow_unused=True, materialize_grads=True)
        )

    return gradient


@EVERY_SCENARIO
def test_the_jacobian_of_the_gradient_is_the_hessian(scenario: Scenario) -> None:
    case, reference = scenario.build(), scenario.reference
    J = hesse.Jacobian(gradient_map(case), case.inputs, batching="auto")
    columns = random_vectors(reference.n, 10).T
    assert_product(J @ columns.to(J.dtype), reference.hessian, columns, reference.tolerance)
    assert_product(J.T @ columns.to(J.dtype), reference.hessian.T, columns, reference.tolerance)
    assert_product(flat(J @ unflat(columns[:, 0], case.inputs)), reference.hessian, columns[:, 0], reference.tolerance)
