"""EmpiricalFisher against outer products of the gradients of single samples."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import BITS, CLASSES, REAL, Tied, X, generator, inputs, loader, mlp, seeded

WEIGHT = torch.tensor([1.0, 5.0, 0.3], dtype=torch.float64)


def outer(model: nn.Module, unreduced: Callable[..., Tensor]) -> Tensor:
    """Σ g·gᵀ over the entries of unreduced losses."""
    G = references.jacobian(model, unreduced)
    return G.T @ G


CASES = {
    "cross_entropy": (nn.CrossEntropyLoss, CLASSES, 1 / 10, {}),
    "cross_entropy_sum": (nn.CrossEntropyLoss, CLASSES, 1.0, {"reduction": "sum"}),
    "cross_entropy_weighted": (nn.CrossEntropyLoss, CLASSES, 1 / float(WEIGHT[CLASSES].sum()), {"weight": WEIGHT}),
    "cross_entropy_ignoring": (nn.CrossEntropyLoss, CLASSES, 1 / float((CLASSES != 1).sum()), {"ignore_index": 1}),
    # Of squared error the mean is over elements, and a sample's loss their sum.
    "mse": (nn.MSELoss, REAL, 1 / 30, {}),
    "mse_sum": (nn.MSELoss, REAL, 1.0, {"reduction": "sum"}),
    "bce": (nn.BCEWithLogitsLoss, BITS, 1 / 30, {}),
}


@pytest.mark.parametrize("memory", [None, "2200B"], ids=["kept", "little memory"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.one_in(4)
def test_the_reduction_counts_once(name: str, memory: str | None) -> None:
    make, target, c, options = CASES[name]
    model = mlp()
    none = make(**(options | {"reduction": "none"}))

    def unreduced(call: Callable[[Tensor], Tensor]) -> Tensor:
        losses = none(call(X), target)
        return losses if losses.dim() == 1 else losses.sum(1)

    E = hesse.EmpiricalFisher(model, make(**options), loader(X, target), memory=memory)
    torch.testing.assert_close(E.to_dense(), c * outer(model, unreduced), rtol=1e-11, atol=1e-13)
    assert E.positive_semidefinite


def test_an_own_mean_over_rows_counts_rows() -> None:
    model = mlp()
    E = hesse.EmpiricalFisher(model, lambda f, y: (f - y).pow(4).sum(1).mean(), loader(X, REAL))
    expected = outer(model, lambda call: (call(X) - REAL).pow(4).sum(1)) / 10
    torch.testing.assert_close(E.to_dense(), expected)


@pytest.mark.parametrize("per", ["row", "token"])
@pytest.mark.parametrize("layout", ["classes second", "classes last"])
def test_a_sample_is_a_row_or_a_token(per: str, layout: str) -> None:
    model = seeded(Tied)
    x, y = [torch.randint(5, (6, 4), generator=generator(seed)) for seed in (0, 1)]
    y[2, 1:] = -100
    if layout == "classes second":
        E = hesse.EmpiricalFisher(
            model, F.cross_entropy, loader(x, y), output=lambda m, b: (m(b[0]).transpose(1, 2), b[1]), sample=per
        )
    else:
        E = hesse.EmpiricalFisher(
            model,
            lambda f, y: F.cross_entropy(f.flatten(0, 1), y.flatten()),
            loader(x, y),
            weight=lambda batch: (batch[1] != -100).sum(),
            sample=per,
        )

    def unreduced(call: Callable[[Tensor], Tensor]) -> Tensor:
        losses = F.cross_entropy(call(x).transpose(1, 2), y, reduction="none")
        return losses.sum(1) if per == "row" else losses.flatten()

    torch.testing.assert_close(E.to_dense(), outer(model, unreduced) / float((y != -100).sum()))


def test_rows_reach_across_the_leaves_of_a_prediction() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.scale = nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.mean(x).tanh(), self.scale(x).squeeze(1)

    def losses(prediction: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        return (prediction[0] - y).square().sum(1) * prediction[1].exp()

    model = seeded(TwoHeads)
    E = hesse.EmpiricalFisher(model, lambda f, y: losses(f, y).mean(), loader(X, REAL))
    torch.testing.assert_close(E.to_dense(), outer(model, lambda call: losses(call(X), REAL)) / 10)
    V = inputs(E.shape[1], 3)
    batched = hesse.EmpiricalFisher(model, lambda f, y: losses(f, y).mean(), loader(X, REAL), batching="vmap")
    torch.testing.assert_close(batched @ V, E @ V)


def test_what_makes_no_sense_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="sample given to EmpiricalFisher should be 'row' or 'token' but is 'pixel'"):
        hesse.EmpiricalFisher(mlp(), F.cross_entropy, (X, CLASSES), sample="pixel")
    with pytest.raises(TypeError, match="EmpiricalFisher needs the model's prediction"):
        hesse.EmpiricalFisher(mlp(), F.cross_entropy, {"x": X, "y": CLASSES})
    with pytest.raises(ValueError, match="row for each sample"):
        hesse.EmpiricalFisher(
            mlp(), F.mse_loss, (X, REAL), output=lambda m, b: (m(b[0]).sum(), b[1].sum()), reduction="sum", weight=len
        ).to_dense()


def test_a_sample_without_a_batch_is_one_row() -> None:
    model = mlp()
    E = hesse.EmpiricalFisher(model, nn.CrossEntropyLoss(weight=WEIGHT), list(zip(X, CLASSES, strict=True)))
    losses = functools.partial(F.cross_entropy, target=CLASSES, weight=WEIGHT, reduction="none")
    expected = outer(model, lambda call: losses(call(X))) / float(WEIGHT[CLASSES].sum())
    torch.testing.assert_close(E.to_dense(), expected)


class Normal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.scale(x)


def test_tokens_reach_across_the_leaves_of_a_prediction() -> None:
    x, y = inputs(5, 3, 4), inputs(5, 3, 2, seed=1)

    def losses(prediction: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        mean, scale = prediction
        return ((mean - y).square() * scale.exp() - scale).sum(-1)

    model = seeded(Normal)
    E = hesse.EmpiricalFisher(
        model,
        lambda f, y: losses(f, y).mean(),
        loader(x, y, batch_size=3),
        sample="token",
        weight=lambda batch: batch[1].shape[:2].numel(),
    )
    expected = outer(model, lambda call: losses(call(x), y).flatten()) / 15
    torch.testing.assert_close(E.to_dense(), expected)
    torch.testing.assert_close(E @ inputs(E.shape[1], 3), expected @ inputs(E.shape[1], 3))


def test_weights_of_batches_are_no_counts_of_terms() -> None:
    model = mlp()
    E = hesse.EmpiricalFisher(model, nn.MSELoss(), loader(X, REAL), weight=lambda batch: len(batch[0]))
    torch.testing.assert_close(E.to_dense(), outer(model, lambda call: (call(X) - REAL).square().sum(1)) / 30)
    E = hesse.EmpiricalFisher(
        model, F.cross_entropy, loader(X, CLASSES), weight=lambda batch: len(batch[0]), reduction="sum"
    )
    parts = [
        outer(model, lambda call, x=x, y=y: F.cross_entropy(call(x), y, reduction="none")) / len(x)
        for x, y in loader(X, CLASSES)
    ]
    torch.testing.assert_close(E.to_dense(), sum(parts))


def test_rows_that_differ_are_one_sentence() -> None:
    def squares(prediction: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        return prediction[0].square().sum(1).mean() + prediction[1].square().mean()

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.model(x), self.model(x).mean(0)

    with pytest.raises(ValueError, match=r"an entry for each row but got \(10,\) and \(3,\)"):
        hesse.EmpiricalFisher(Hidden(), squares, (X, REAL), reduction="mean", weight=len).to_dense()
    with pytest.raises(ValueError, match="a loss of 10 rows of targets and 3 of predictions"):
        hesse.EmpiricalFisher(
            mlp(),
            lambda f, y: (f.mT - y).square().mean(),
            (X, REAL),
            output=lambda model, batch: (model(batch[0]).mT, batch[1]),
        ).to_dense()
