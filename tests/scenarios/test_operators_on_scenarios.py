"""The Hessian and Jacobian operators on every scenario, with every batching of many vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse

from .comparison import assert_close, assert_product, assert_structured_like, random_vectors
from .flat import flat, leaves_of, unflat
from .scenario import Case, Scenario
from .table import EVERY_SCENARIO, SCENARIOS
from .unbatchable import UNBATCHABLE

FOLLOWED = {"constant_that_requires_no_gradient", "cut_off_by_detach"}
"""They give a value without a graph, so that they are evaluated once more to find what cuts it off."""

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
@pytest.mark.one_in(19)
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

    generator = torch.get_rng_state()
    columns = random_vectors(n, 5).T
    vector = columns[:, 0]
    structured = H @ unflat(vector, case.inputs)
    assert_structured_like(structured, case.inputs)
    assert_product(flat(structured), hessian, vector, tolerance)
    assert_product(H @ vector.to(H.dtype), hessian, vector, tolerance)

    if batching == "vmap" and scenario.name in UNBATCHABLE:
        with pytest.raises(RuntimeError, match='batching="vmap" was asked for, but'):
            H @ columns.to(H.dtype)
        return
    assert_product(H @ columns.to(H.dtype), hessian, columns, tolerance)
    dense = H.to_dense()
    assert_close(dense, hessian, tolerance)
    assert_close(dense, dense.T, tolerance)
    # Products replay: they neither evaluate the function again nor draw.
    assert len(calls) == (2 if scenario.name in FOLLOWED else 1)
    assert torch.equal(torch.get_rng_state(), generator)


@EVERY_SCENARIO
@pytest.mark.one_in(13)
def test_the_transposed_jacobian_of_a_scalar_function_is_its_gradient(scenario: Scenario) -> None:
    case = scenario.build()
    func, calls = counted(case.func)
    J = hesse.Jacobian(func, case.inputs)
    gradient, size, tolerance = differenced_gradient(scenario)

    assert J.shape == (1, len(gradient))
    pulled = J.T @ torch.full_like(J.value, 2.0)
    assert_structured_like(pulled, case.inputs)
    assert_close(flat(pulled), 2 * gradient, tolerance, 2 * size)
    assert_close(J.T @ torch.full((1,), 2.0, dtype=J.dtype), 2 * gradient, tolerance, 2 * size)
    assert_close(J.to_dense(), gradient[None], tolerance, size)
    assert len(calls) == (2 if scenario.name in FOLLOWED else 1)


@EVERY_SCENARIO
@pytest.mark.one_in(13)
def test_the_jacobian_of_a_scalar_function_is_its_directional_derivative(scenario: Scenario) -> None:
    case = scenario.build()
    func, calls = counted(case.func)
    J = hesse.Jacobian(func, case.inputs)
    gradient, size, tolerance = differenced_gradient(scenario)
    n = len(gradient)

    vector = random_vectors(n, 1)[0]
    structured = J @ unflat(vector, case.inputs)
    assert structured.shape == J.value.shape
    assert_close(structured.reshape(()), gradient @ vector, tolerance, n * size)
    # Where the input is one flat vector, a flat vector is a structured one: so is then the product.
    assert_close((J @ vector.to(J.dtype)).reshape(()), gradient @ vector, tolerance, n * size)
    assert len(calls) == (2 if scenario.name in FOLLOWED else 1)


def differenced_gradient(scenario: Scenario) -> tuple[Tensor, float, float]:
    """The gradient by differences of the value, the size of what it was made from, and its tolerance."""
    gradient, reference = scenario.differenced_gradient, scenario.reference
    size = max(abs(float(reference.value)), float(gradient.abs().max()))
    return gradient, size, max(reference.tolerance, 1e-8)


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


# That a batch is refused is tested above; through Jᵀw some of the refused ones batch.
NOT_REFUSED = [
    (scenario, batching)
    for scenario in SCENARIOS.values()
    for batching in ("loop", "vmap", "auto")
    if batching != "vmap" or scenario.name not in UNBATCHABLE
]


@pytest.mark.parametrize(
    ("scenario", "batching"), NOT_REFUSED, ids=[f"{batching}-{scenario.name}" for scenario, batching in NOT_REFUSED]
)
@pytest.mark.one_in(23)
def test_the_jacobian_of_the_gradient_is_the_hessian(scenario: Scenario, batching: Any) -> None:
    case, reference = scenario.build(), scenario.reference
    J = hesse.Jacobian(gradient_map(case), case.inputs, batching=batching)
    # Enough of them that "auto" tries batching.
    columns = random_vectors(reference.n, 68).T
    # First the other way, so that what "auto" decides for one way is not taken for granted for the other.
    pushed = J @ columns.to(J.dtype)
    assert_product(J.T @ columns.to(J.dtype), reference.hessian.T, columns, reference.tolerance)
    assert_product(pushed, reference.hessian, columns, reference.tolerance)
    structured = flat(J @ unflat(columns[:, 0], case.inputs))
    assert_product(structured, reference.hessian, columns[:, 0], reference.tolerance)
