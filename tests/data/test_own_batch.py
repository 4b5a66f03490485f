"""What an evaluation writes into its batch: each has its own, the user's stays."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import CLASSES, EVEN, X, seeded

pytestmark = pytest.mark.usefixtures("uncompiled")


class Graph:
    """A batch that is an object."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


class Network(nn.Module):
    """Two layers, of which the input is made smaller by one in a way of its own."""

    def __init__(self, shift: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.shift = nn.Linear(4, 4), nn.Linear(4, 3), shift

    def forward(self, batch: Any) -> Tensor:
        return self.second(torch.tanh(self.first(self.shift(batch))))


def in_place(batch: Any) -> Tensor:
    x: Tensor = batch[0]
    x -= 1
    return x


def in_object(batch: Any) -> Tensor:
    batch.x = batch.x.requires_grad_() - 1
    return batch.x


def in_tensor_of_object(batch: Any) -> Tensor:
    return batch.x.sub_(1)


def in_mapping(batch: Any) -> Tensor:
    batch["x"] = batch.pop("x") - 1
    return batch["x"]


def of_object(batch: Any) -> Tensor:
    return batch.y


SHIFTS: dict[str, tuple[Callable[[Any], Tensor], Callable[..., Any], Callable[[Any], Tensor]]] = {
    "in place": (in_place, lambda x, y: (x, y), lambda batch: batch[1]),
    "in an object": (in_object, Graph, of_object),
    "in an object of a class that is made": (in_object, abc.ABCMeta("Made", (Graph,), {}), of_object),
    "in a tensor of an object": (in_tensor_of_object, Graph, of_object),
    "in a mapping": (in_mapping, lambda x, y: {"x": x, "y": y}, lambda batch: batch["y"]),
}


@pytest.mark.parametrize(("name", "engine"), [*[(name, "tape") for name in SHIFTS], ("in an object", "compiled")])
def test_each_evaluation_begins_with_the_users(name: str, engine: Any) -> None:
    shift, make, target = SHIFTS[name]
    model, x = seeded(Network, shift), X.clone()

    def output(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch), target(batch)

    told: dict[str, Any] = {"weight": lambda batch: len(target(batch)), "reduction": "mean"}
    H = hesse.LossHessian(
        model,
        nn.CrossEntropyLoss(),
        [make(x[:EVEN], CLASSES[:EVEN]), make(x[EVEN:], CLASSES[EVEN:])],
        output=output,
        memory="20KB",
        engine=engine,
        **(told if isinstance(make, type) else {}),
    )
    expected = references.hessian(seeded(Network, lambda x: x - 1), lambda call: F.cross_entropy(call(X), CLASSES))
    v = torch.linspace(-1, 1, len(expected), dtype=torch.float64)
    torch.testing.assert_close(H @ v, expected @ v)
    torch.testing.assert_close(H.at() @ v, expected @ v)
    assert torch.equal(x, X)
    assert not x.requires_grad


def test_tensors_that_are_written_into_stay_together() -> None:
    model, x = seeded(Network, in_place), X.clone()

    def autoencoder(model: nn.Module, _: Any, batch: Any) -> Tensor:
        return F.mse_loss(model(batch), batch[1][:, :3])

    H = hesse.LossHessian(model, None, [(x, x)], call=autoencoder)
    torch.testing.assert_close(H.value, F.mse_loss(seeded(Network, lambda x: x)(X - 1), X[:, :3] - 1).detach())


def test_what_later_evaluations_alone_write_is_refused() -> None:
    def seldom(batch: Any) -> Tensor:
        return batch[0].sub_(1) if batch[0].sum() > 0 else batch[0]

    y = torch.tensor([0, 1, 2])
    batches = [(sign * torch.ones(3, 4, dtype=torch.float64), y) for sign in (-1, 1)]

    def output(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch), batch[1]

    H = hesse.LossHessian(seeded(Network, seldom), nn.CrossEntropyLoss(), batches, output=output)
    with pytest.raises(RuntimeError, match="writes into its batch, as earlier ones did not"):
        H.matvec(torch.ones(35, dtype=torch.float64))


@pytest.mark.parametrize("as_parameter", [False, True])
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton, hesse.EmpiricalFisher])
def test_a_loss_that_masks_its_targets_masks_its_own(operator: Any, as_parameter: bool) -> None:
    def masked(prediction: Tensor, target: Tensor) -> Tensor:
        target[target == 2] = -100
        return F.cross_entropy(prediction, target)

    model, y = nn.Linear(4, 3).double(), CLASSES.clone()
    if as_parameter:
        y = nn.Parameter(y, requires_grad=False)
    H = operator(model, masked, (X, y), reduction="mean", weight=lambda batch: (batch[1] != 2).sum())
    expected = operator(model, nn.CrossEntropyLoss(), (X, y.masked_fill(y == 2, -100)))
    v = torch.linspace(-1, 1, 15, dtype=torch.float64)
    torch.testing.assert_close(H @ v, expected @ v)
    torch.testing.assert_close(H.at() @ v, expected @ v)
    assert torch.equal(y, CLASSES)
