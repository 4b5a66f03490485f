"""The choice between single and batched backwards: the faster one that is right, and the loop otherwise."""

from __future__ import annotations

import re
import time

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize.chunks import Batching
from tests.capabilities import batches_group_norm

MATRIX = torch.arange(12.0).reshape(3, 4)
ROWS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are made as soon as one chunk has come."""
    monkeypatch.setattr("hesse._linearize.chunks._PATIENCE", 16)


def test_a_trial_waits_until_it_is_little_beside_the_products_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hesse._linearize.chunks._PATIENCE", 64)
    batching = Batching()
    for _ in range(3):
        torch.testing.assert_close(batching.multiply(right, ROWS, [3]), right(ROWS))
        assert batching.chosen is None
    torch.testing.assert_close(batching.multiply(right, ROWS, [3]), right(ROWS))
    assert batching.chosen is not None
    later = Batching()
    later.inherit(batching)
    later.chosen = None
    later.multiply(right, ROWS, [3])
    assert later.chosen is not None


def right(rows: Tensor) -> Tensor:
    return rows @ MATRIX.mT


def slow_singly(rows: Tensor) -> Tensor:
    if rows.dim() == 1:
        time.sleep(0.01)
    return right(rows)


def slow_in_batches(rows: Tensor) -> Tensor:
    if rows.dim() == 2:
        time.sleep(0.1)
    return right(rows)


def slow_in_large_batches(rows: Tensor) -> Tensor:
    if rows.dim() == 1:
        time.sleep(0.01)
    elif len(rows) > 4:
        time.sleep(0.3)
    return right(rows)


def wrong_in_batches(rows: Tensor) -> Tensor:
    return right(rows) * (1.0 if rows.dim() == 1 else 1.01)


def raises_in_batches(rows: Tensor) -> Tensor:
    if rows.dim() == 2:
        raise RuntimeError("no batching rule\nand more lines")
    return slow_singly(rows)


def nan_in_batches(rows: Tensor) -> Tensor:
    return right(rows) * (1.0 if rows.dim() == 1 else float("nan"))


@pytest.mark.parametrize(
    ("multiply", "chosen", "reason"),
    [
        (slow_singly, "vmap", "ms in a batch of 16"),
        (slow_in_batches, "loop", "ms in a batch of 4"),
        (slow_in_large_batches, "loop", "ms in a batch of 16"),
        (wrong_in_batches, "loop", "differs from single products by"),
        (nan_in_batches, "loop", "differs"),
        (raises_in_batches, "loop", "a batch raises: no batching rule$"),
    ],
)
def test_a_trial_chooses_the_faster_way_that_is_right(multiply, chosen: str, reason: str) -> None:
    batching = Batching()
    product = batching.multiply(multiply, ROWS, [3])
    torch.testing.assert_close(product, right(ROWS))
    assert batching.chosen == chosen
    assert re.search(reason, batching.reason)
    torch.testing.assert_close(batching.multiply(multiply, ROWS, [3]), right(ROWS))


def test_zeros_among_the_users_vectors_do_not_hide_a_wrong_batch() -> None:
    rows = torch.eye(4).repeat(5, 1) * torch.tensor([1.0, 0.0, 0.0, 0.0])

    def wrong_in_the_last(rows: Tensor) -> Tensor:
        weights = torch.tensor([1.0, 1.0, 1.0, 1.0 if rows.dim() == 1 else 2.0])
        return right(rows * weights)

    batching = Batching()
    batching.multiply(wrong_in_the_last, rows, [3])
    assert batching.chosen == "loop"
    assert "differs" in batching.reason


def test_a_wrong_small_leaf_is_noticed_beside_a_large_one() -> None:
    scale = torch.tensor([1e4, 1e4, 1.0])

    def wrong_in_the_last(rows: Tensor) -> Tensor:
        return right(rows) * scale * torch.tensor([1.0, 1.0, 1.0 if rows.dim() == 1 else 2.0])

    batching = Batching()
    product = batching.multiply(wrong_in_the_last, ROWS, [2, 1])
    torch.testing.assert_close(product, right(ROWS) * scale)
    assert "differs" in batching.reason


@pytest.mark.parametrize("mode", ["auto", "vmap"])
def test_a_batch_that_is_wrong_at_one_size_alone_is_noticed(mode) -> None:
    def wrong_by_five(rows: Tensor) -> Tensor:
        if rows.dim() == 1:
            time.sleep(0.005)
        return right(rows) * (2.0 if rows.dim() == 2 and len(rows) == 5 else 1.0)

    batching = Batching(mode)
    torch.testing.assert_close(batching.multiply(wrong_by_five, ROWS[:16], [3]), right(ROWS[:16]))
    rows = torch.cat([ROWS, ROWS[:1]])
    if mode == "vmap":
        with pytest.raises(RuntimeError, match='batching="vmap" was asked for, but a batch differs'):
            batching.multiply(wrong_by_five, rows, [3])
    else:
        torch.testing.assert_close(batching.multiply(wrong_by_five, rows, [3]), right(rows))
        assert batching.chosen == "loop"


def test_few_vectors_are_multiplied_singly_without_a_trial() -> None:
    batching = Batching()
    batching.multiply(right, ROWS[:15], [3])
    assert batching.chosen is None


def test_no_vectors_give_an_empty_product() -> None:
    assert Batching().multiply(right, ROWS[:0], [3]).shape == (0, 3)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match='"auto", "loop" or "vmap" but is \'fast\''):
        Batching("fast")  # type: ignore[arg-type]  # the wrong value is the test


def test_where_pytorch_cannot_batch_the_loop_is_taken_and_said() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.Tanh()).double()
    images = torch.randn(2, 1, 5, 5, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (images,)).pow(2).sum()

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    H = hesse.Hessian(loss, parameters)
    dense = H @ torch.eye(H.shape[1], dtype=torch.float64)
    order = list(parameters)
    blocks = torch.func.hessian(loss)(parameters)
    expected = torch.cat(
        [torch.cat([blocks[i][j].reshape(parameters[i].numel(), -1) for j in order], dim=1) for i in order]
    )
    torch.testing.assert_close(dense, expected)
    torch.testing.assert_close(H.to_dense(), expected)
    if not batches_group_norm():
        assert H.explain().batching == "loop"
        assert "batch raises" in H.explain().reason
        # The loop needs no second trial at another point.
        assert H.at(parameters).explain().batching == "loop"
