"""EmbeddingBag in its three modes, by the table and by the weights of the samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values, dense_product

from .judge import assert_right, assert_thrice_differentiable, refusal, vectors_like

INDICES = torch.tensor([1, 2, 2, 4, 0, 2, 1])
OFFSETS = torch.tensor([0, 2, 2, 6])
"""Four bags: the second is empty, the third holds an index twice."""

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "padded": {"padding_idx": 2},
    "last offset included": {"include_last_offset": True, "offsets": torch.tensor([0, 2, 2, 6, 7])},
    "int32": {"input": INDICES.int(), "offsets": OFFSETS.int()},
    "a matrix of indices": {"input": INDICES[:6].reshape(2, 3), "offsets": None},
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def through_bags(table: Tensor, samples: Tensor | None = None, **options: Any) -> Tensor:
    arguments = {"input": INDICES, "offsets": OFFSETS, **options}
    if samples is not None:
        samples = samples[: arguments["input"].numel()].reshape(arguments["input"].shape)
    bags = F.embedding_bag(weight=table.sin(), per_sample_weights=samples, **arguments)
    return (bags.exp() * torch.arange(1.0, bags.numel() + 1, dtype=DOUBLE).reshape(bags.shape)).sum()


def test_pytorch_has_no_second_derivatives() -> None:
    table, samples = draw(5, 2), draw(7, seed=1)
    assert "_embedding_bag_backward" in refusal(through_bags, (table,))
    by_samples = lambda samples: through_bags(table, samples, mode="sum")  # noqa: E731  # a function in one line
    assert "_embedding_bag_per_sample_weights_backward" in refusal(by_samples, (samples,))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.one_in(4)
def test_products_by_the_table_agree_with_differences_of_the_gradient(mode: str, options: str) -> None:
    assert_right(lambda table: through_bags(table, mode=mode, **OPTIONS[options]), (draw(5, 2),))


@pytest.mark.parametrize("options", OPTIONS)
def test_products_by_table_and_samples_agree_with_differences_of_the_gradient(options: str) -> None:
    inputs = draw(5, 2), draw(7, seed=1)
    assert_right(lambda table, samples: through_bags(table, samples, mode="sum", **OPTIONS[options]), inputs)


def test_third_derivatives_agree_with_differences_of_products() -> None:
    inputs = draw(5, 2), draw(7, seed=1)
    assert_thrice_differentiable(lambda table, samples: through_bags(table, samples, mode="sum"), inputs)
    for mode in ("mean", "max"):
        assert_thrice_differentiable(lambda table, mode=mode: through_bags(table, mode=mode), inputs[:1])


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_scaled_by_frequency_the_product_is_the_derivative_of_the_scaled_gradient(mode: str) -> None:
    table = draw(5, 2)
    v = vectors_like((table,))
    func = lambda table: through_bags(table, mode=mode, scale_grad_by_freq=True)  # noqa: E731  # a function in one line
    assert_values(hesse.vhp(func, (table,), v)[1], dense_product(func, (table,), v), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_table_with_sparse_gradients_has_the_same_products(mode: str) -> None:
    table = draw(5, 2)
    v = vectors_like((table,))[0]
    product = hesse.vhp(lambda table: through_bags(table, mode=mode, sparse=True), table, v)[1]
    dense = hesse.vhp(lambda table: through_bags(table, mode=mode), table, v)[1]
    assert_values(product.to_dense() if product.is_sparse else product, dense)


def test_one_bag_with_two_weighted_rows_has_the_closed_form() -> None:
    # (s₀ w₀ + s₁ w₁)²: by the weights 2 wᵢ wⱼ, by the rows 2 sᵢ sⱼ, mixed 2 sⱼ wᵢ and 2 (the bag) more where i = j.
    def func(table: Tensor, samples: Tensor) -> Tensor:
        bag = F.embedding_bag(torch.tensor([[0, 1]]), table, mode="sum", per_sample_weights=samples)
        return (bag**2).sum()

    w, s = torch.tensor([[3.0], [5.0]], dtype=DOUBLE), torch.tensor([[0.5, -2.0]], dtype=DOUBLE)
    rows, samples = w[:, 0], s[0]
    mixed = 2 * torch.outer(samples, rows) + 2 * (rows @ samples) * torch.eye(2)
    expected = torch.cat(
        (
            torch.cat((2 * torch.outer(samples, samples), mixed), 1),
            torch.cat((mixed.T, 2 * torch.outer(rows, rows)), 1),
        )
    )
    assert_values(hesse.Hessian(func, (w, s)).to_dense(), expected)
