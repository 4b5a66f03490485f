"""Losses that mask by themselves: each batch is compared with the first rows, so that none is weighed wrongly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse

X = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(12, 3).sin()
Y = torch.linspace(0, 5, 12, dtype=torch.float64).cos().reshape(12, 1)
# The first six rows count, and of the others every second one.
KEEP = torch.tensor([True] * 6 + [True, False] * 3)
Batches = list[tuple[Tensor, tuple[Tensor, Tensor]]]


def rows(*ends: int) -> Batches:
    return [(X[a:b], (Y[a:b], KEEP[a:b])) for a, b in itertools.pairwise(ends)]


def indexed(f: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    y, keep = target
    return ((f[keep] - y[keep]) ** 2).mean()


def averaged(f: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    y, keep = target
    return ((f - y) ** 2)[:, 0].mul(keep).sum() / keep.sum()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()


def dense(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The Hessian of a loss of the model's predictions for all rows, by PyTorch."""
    net = model()
    names, shapes = zip(*[(name, leaf.shape) for name, leaf in net.named_parameters()], strict=True)
    flat = nn.utils.parameters_to_vector(net.parameters()).detach()

    def func(flat: Tensor) -> Tensor:
        leaves = [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        return loss(torch.func.functional_call(net, dict(zip(names, leaves, strict=True)), (X,)))

    return torch.autograd.functional.hessian(func, flat)


@pytest.mark.parametrize("loss", [indexed, averaged])
@pytest.mark.parametrize("ends", [(0, 6, 12), (0, 4, 8, 12), (0, 1, 6, 7, 8, 12)])
def test_a_mask_that_the_first_batch_lacks_is_refused(loss: Any, ends: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"not the mean of its rows' losses in batch \d+: .* give weight=") as caught:
        hesse.LossHessian(model(), loss, rows(*ends)).value.item()
    assert "\n" not in str(caught.value)
    told = hesse.LossHessian(model(), loss, rows(*ends), weight=lambda batch: batch[1][1].sum())
    torch.testing.assert_close(told.to_dense(), dense(lambda f: F.mse_loss(f[KEEP], Y[KEEP])))


def test_batches_of_which_one_has_masked_labels_are_refused() -> None:
    labels = torch.arange(12).reshape(3, 4) % 2
    labels[0, 1:] = -100

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["x"]).unflatten(1, (2, 4)), batch["labels"])

    data = [{"x": X[a:b], "labels": labels[a:b]} for a, b in ((0, 1), (1, 3))]
    with pytest.raises(ValueError, match="not the mean of its rows' losses in batch 1"):
        hesse.LossHessian(nn.Linear(3, 8).double(), loss, data).value.item()


def test_a_mask_that_is_alike_in_both_halves_is_refused() -> None:
    x, y, keep = X[:8], Y[:8], torch.tensor([True, False] * 4)
    with pytest.raises(ValueError, match="neither the mean nor the sum of its rows' losses"):
        hesse.EmpiricalFisher(model(), indexed, (x, (y, keep)))


def test_sums_over_single_rows_are_not_taken_for_means() -> None:
    def total(f: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        return ((f - target[0]) ** 2).sum()

    data = rows(*range(13))
    with pytest.raises(ValueError, match="not the mean of its rows' losses in batch 0"):
        hesse.LossHessian(model(), total, data).value.item()
    told = hesse.LossHessian(model(), total, data, reduction="sum")
    torch.testing.assert_close(told.to_dense(), dense(lambda f: F.mse_loss(f, Y, reduction="sum")))


def test_means_over_batches_of_any_size_are_right_and_compared_once() -> None:
    evaluations = []

    def loss(f: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        evaluations.append(len(f))
        return ((f - target[0]) ** 2).mean() + 0.5

    H = hesse.LossHessian(model(), loss, rows(0, 5, 6, 12), engine="tape")
    torch.testing.assert_close(H.to_dense(), dense(lambda f: F.mse_loss(f, Y)))
    evaluations.clear()
    moved = H.at()
    assert float(moved.value) == pytest.approx(float(H.value))
    assert evaluations == [5, 1, 6]


def test_batches_that_do_not_fit_together_are_not_compared() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return (self.w * x).sin().mean(1)

    x = torch.linspace(0, 1, 12, dtype=torch.float64)
    batches = [(x.reshape(4, 3), x[:4]), (x[:8].reshape(4, 2), x[4:8])]
    H = hesse.LossHessian(Mean(), lambda f, y: ((f - y) ** 2).mean(), batches)

    def func(w: Tensor) -> Tensor:
        return sum([(((w * x).sin().mean(1) - y) ** 2).mean() for x, y in batches], torch.zeros(())) / 2

    torch.testing.assert_close(H.to_dense(), torch.autograd.functional.hessian(func, x.new_ones(1)))


def test_batches_with_factors_of_their_own_are_not_compared() -> None:
    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return batch["factor"] * F.mse_loss(model(batch["x"]), batch["y"])

    for factors in ((0.5, 2.0), (torch.tensor(0.5), torch.tensor(2.0))):
        parts = zip(X.split(6), Y.split(6), factors, strict=True)
        H = hesse.LossHessian(model(), loss, [{"x": x, "y": y, "factor": factor} for x, y, factor in parts])
        halves = dense(lambda f: (0.5 * F.mse_loss(f[:6], Y[:6]) + 2 * F.mse_loss(f[6:], Y[6:])) / 2)
        torch.testing.assert_close(H.to_dense(), halves)


def images(*boxes: tuple[int, ...]) -> list[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Batches of images, each with some boxes."""
    return [(X[: len(each)], [{"boxes": Y[:number]} for number in each]) for each in boxes]


def of_boxes(f: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([(f[i] - target["boxes"]).square().mean() for i, target in enumerate(targets)]).mean()


def scaled(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return batch["scale"].squeeze() * F.mse_loss(model(batch["x"]), batch["y"])


UNSEEN: dict[str, tuple[Any, Any, dict[str, Any], Any]] = {
    # The first tensor of these targets are the boxes of the first image.
    "boxes of images": (
        of_boxes,
        images((2, 1, 3), (4, 1), (2, 2)),
        {"reduction": "mean"},
        lambda batch: len(batch[1]),
    ),
    "a first tensor of one row": (
        scaled,
        [{"scale": torch.ones(1).double(), "x": x, "y": y} for x, y in zip(X.split(5), Y.split(5), strict=True)],
        {},
        lambda batch: len(batch["x"]),
    ),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_batches_of_other_shapes_are_refused_where_no_part_of_the_first_shows_the_mean(name: str) -> None:
    loss, data, told, count = UNSEEN[name]
    with pytest.raises(ValueError, match=r"parts of its first batch do not show it, and batch \d has other shapes"):
        hesse.LossHessian(model(), loss, data, **told).value.item()
    counts = [count(batch) for batch in data]
    parts = [hesse.LossHessian(model(), loss, [batch], **told).to_dense() for batch in data]
    expected = sum(number * part for number, part in zip(counts, parts, strict=True)) / sum(counts)
    weighed = hesse.LossHessian(model(), loss, data, reduction="mean", weight=count)
    torch.testing.assert_close(weighed.to_dense(), expected)
