"""Products are compared by what they round on the way: curvature that is zero, or computed in a coarser dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from hesse._autograd.agreement import FACTOR, disagreement, halves
from tests.linearize import programs

DOUBLE = torch.float64
Function = Callable[[Tensor], Tensor]


def draw(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


WEIGHTS = draw(20, 20, dtype=torch.float32)

# A function, its point, the same function without rounding, and how far off products with numbers around one may be.
CASES: dict[str, tuple[Function, Tensor, Function, float]] = {
    "softmax": (lambda x: x.softmax(0).sum() ** 2, draw(5), lambda x: 0 * x.sum(), 1e-14),
    "direction": (lambda x: (x / x.norm()).square().sum(), draw(5), lambda x: 0 * x.sum(), 1e-13),
    "cosine": (lambda x: F.cosine_similarity(x, 2 * x, dim=0), draw(5), lambda x: 0 * x.sum(), 1e-13),
    "correlation": (lambda x: x.corrcoef(), draw(2), lambda x: 0 * x.sum(), 1e-13),
    "single precision": (
        lambda x: (torch.tanh(WEIGHTS @ x.float()) ** 2).sum().double(),
        draw(20) / 10,
        lambda x: (torch.tanh(WEIGHTS.double() @ x) ** 2).sum(),
        1e-3,
    ),
    "direction in single precision": (
        lambda x: (x / x.norm()).square().sum(),
        draw(5, dtype=torch.float32),
        lambda x: 0 * x.sum(),
        1e-4,
    ),
}


def expected(name: str) -> tuple[Function, Tensor, Tensor, float]:
    func, x, same, tolerance = CASES[name]
    dense = torch.func.hessian(same)(x.double())
    return func, x, dense, tolerance


def assert_near(found: Tensor, dense: Tensor, tolerance: float) -> None:
    assert float((found.double() - dense).abs().max()) <= tolerance * max(1.0, float(dense.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_batches_are_taken(name: str) -> None:
    func, x, dense, tolerance = expected(name)
    assert_near(hesse.Hessian(func, x, batching="vmap").to_dense(), dense, tolerance)
    H = hesse.Hessian(func, x)
    assert_near(H @ torch.eye(len(x), 40, dtype=x.dtype), dense @ torch.eye(len(x), 40, dtype=DOUBLE), tolerance)
    assert "differs" not in H.explain().batching_reason


@pytest.mark.parametrize("name", CASES)
def test_rows_of_a_batched_backward_are_taken(name: str) -> None:
    func, x, dense, tolerance = expected(name)
    assert_near(hesse.functional.hessian(func, x, vectorize=True), dense, tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.one_in(4)
def test_programs_are_taken(name: str) -> None:
    func, x, dense, tolerance = expected(name)
    H = programs.hessian(func, x)
    assert H.explain().engine == "compiled"
    assert_near(H.to_dense(), dense, tolerance)


def test_independent_problems_without_curvature_are_taken() -> None:
    x = draw(3, 4)
    H = hesse.Hessian(lambda x: (x / x.norm(dim=1, keepdim=True)).square().sum(1), x, batch_dim=0)
    assert_near(H @ torch.eye(12, dtype=DOUBLE), torch.zeros(12, 12, dtype=DOUBLE), 1e-13)


def test_a_wrong_program_of_a_function_in_single_precision_is_refused() -> None:
    func, x, _, _ = CASES["single precision"]
    with pytest.raises(hesse.CaptureError, match="differs from the tape's"):
        programs.hessian(func, x, backend=programs.wrong())


@pytest.mark.parametrize("wrong", [1 + 1e-4, 1 - 1e-6, -1.0, 0.0])
def test_a_wrong_product_that_is_linear_is_noticed(wrong: float) -> None:
    right = [draw(6), 1e-3 * draw(4, seed=1)]
    ours = [right[0], wrong * right[1]]
    again = lambda: [FACTOR * leaf for leaf in ours], lambda: [FACTOR * leaf for leaf in right]
    assert disagreement(ours, right, precision=DOUBLE, again=again) > 1


def test_a_leaf_that_rounds_allows_nothing_to_another() -> None:
    right = [draw(6), draw(4, seed=1)]
    ours = [right[0] * (1 + 1e-7), right[1] * (1 + 1e-7)]

    def again(leaves: list[Tensor]) -> Callable[[], list[Tensor]]:
        return lambda: [FACTOR * leaves[0] * (1 - 1e-7), *[FACTOR * leaf for leaf in leaves[1:]]]

    assert disagreement(ours, right, precision=DOUBLE, again=(again(ours), again(right))) > 1
    first = ours[:1], right[:1]
    assert disagreement(*first, precision=DOUBLE, again=(again(first[0]), again(first[1]))) <= 1


def test_each_two_entries_are_apart_by_a_mask() -> None:
    for number in (0, 1, 2, 5, 16, 17):
        masks = list(halves(number))
        assert len(masks) <= 5
        assert all(any(mask[i] != mask[j] for mask in masks) for i in range(number) for j in range(i))
