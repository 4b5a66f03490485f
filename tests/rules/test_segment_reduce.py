"""Reductions of segments, by lengths and by offsets, with ties, zeros and empty segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values

from .judge import assert_right, assert_thrice_differentiable, refusal

FORMS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "lengths": ((7,), {"lengths": torch.tensor([3, 0, 2, 2])}),
    "offsets": ((7,), {"offsets": torch.tensor([0, 3, 3, 5, 7])}),
    "less than all elements": ((7,), {"lengths": torch.tensor([3, 0, 2]), "unsafe": True}),
    "rows": ((4, 2), {"lengths": torch.tensor([1, 3])}),
    "batched lengths": ((2, 4, 2), {"lengths": torch.tensor([[1, 3], [4, 0]]), "axis": 1}),
    "batched offsets": ((2, 4, 2), {"offsets": torch.tensor([[0, 1, 4], [0, 4, 4]]), "axis": 1}),
}
REDUCTIONS = ("sum", "mean", "max", "min", "prod")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def through_segments(reduction: str, initial: float | None, **form: Any) -> Callable[[Tensor], Tensor]:
    def func(x: Tensor) -> Tensor:
        reduced = torch.segment_reduce(x.sin() + 1.5, reduction, initial=initial, **form)
        weights = torch.arange(1.0, reduced.numel() + 1, dtype=DOUBLE).reshape(reduced.shape)
        # Empty segments have no mean, and infinite extrema.
        return (weights * torch.where(reduced.isfinite(), reduced, 0).sin()).sum()

    return func


def test_pytorch_has_no_second_derivative() -> None:
    func = through_segments("sum", None, lengths=torch.tensor([3, 4]))
    assert "aten::_segment_reduce_backward" in refusal(func, (draw(7),))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_in(7)
def test_products_agree_with_differences_of_the_gradient(reduction: str, form: str) -> None:
    shape, options = FORMS[form]
    assert_right(through_segments(reduction, None, **options), (draw(*shape),))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.one_in(3)
def test_an_initial_value_is_taken_in(reduction: str) -> None:
    assert_right(through_segments(reduction, 1.2, lengths=torch.tensor([3, 0, 2, 2])), (draw(7),))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_third_derivatives_agree_with_differences_of_products(reduction: str) -> None:
    assert_thrice_differentiable(through_segments(reduction, None, lengths=torch.tensor([2, 3])), (draw(5),))


def test_products_with_zeros_among_the_factors_have_the_closed_form() -> None:
    # The Hessian of a product of three has the third factor beside the diagonal.
    for x in ([2.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]):
        a, b, c = x
        dense = hesse.Hessian(
            lambda x: torch.segment_reduce(x, "prod", lengths=torch.tensor([3])).sum(), torch.tensor(x, dtype=DOUBLE)
        ).to_dense()
        assert_values(dense, torch.tensor([[0, c, b], [c, 0, a], [b, a, 0]], dtype=DOUBLE))


def test_elements_that_tie_for_the_maximum_share_it() -> None:
    dense = hesse.Hessian(
        lambda x: torch.segment_reduce(x, "max", lengths=torch.tensor([3])).square().sum() / 2,
        torch.tensor([4.0, 1.0, 4.0], dtype=DOUBLE),
    ).to_dense()
    assert_values(dense, torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=DOUBLE) / 4)
