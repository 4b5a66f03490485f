"""A batched backward is taken apart for a rule: every vector for itself, and connected to the graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hesse import functional
from hesse._rules.batches import one_by_one
from tests.functional.references import assert_values


def test_outside_of_a_batched_backward_the_function_is_called_as_it_is() -> None:
    entries = [torch.ones(2), None, 3.0]
    calls: list[tuple[object, ...]] = []
    one_by_one(lambda *entries: calls.append(entries) or (), entries)
    assert len(calls) == 1
    assert all(a is b for a, b in zip(calls[0], entries, strict=True))


@pytest.mark.private
def test_inside_of_one_it_sees_one_vector_after_another() -> None:
    shapes: list[torch.Size] = []

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, cotangent: Tensor) -> Tensor:
            def twice(cotangent: Tensor, factor: float, missing: None, same: Tensor) -> tuple[Tensor | None, ...]:
                shapes.append(cotangent.shape)
                return factor * cotangent * same, None

            result, missing = one_by_one(twice, [cotangent, 2.0, None, torch.ones(3)])
            assert missing is None
            assert result is not None
            return result

    x = torch.ones(3, requires_grad=True)
    (rows,) = torch.autograd.grad(Twice.apply(x), x, torch.eye(3)[:2], is_grads_batched=True)
    assert_values(rows, 2 * torch.eye(3)[:2])
    assert shapes == [torch.Size([3])] * 2


def test_rows_of_a_batched_jacobian_stay_connected() -> None:
    x = torch.linspace(-1.0, 1.0, 3, dtype=torch.float64).requires_grad_()

    def func(x: Tensor) -> Tensor:
        return F.hardsigmoid(x.exp()) ** 2

    batched = functional.jacobian(func, x, create_graph=True, vectorize=True)
    single = functional.jacobian(func, x, create_graph=True)
    weights = torch.arange(9.0, dtype=torch.float64).view(3, 3)
    assert_values(batched, single)
    assert_values(*[torch.autograd.grad((weights * rows).sum(), x)[0] for rows in (batched, single)])
