"""What changes between the points of an operator over data, or in its batches: the operator is that of today."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import inputs, mlp, seeded
from tests.data.test_gauss_newton import jtlj

pytestmark = pytest.mark.usefixtures("uncompiled")

XS = [inputs(5, 4, seed=seed) for seed in (1, 2, 3)]
YS = [inputs(5, 3, seed=seed) for seed in (4, 5, 6)]
ENGINES = ["tape", "compiled"]


def squares(model: nn.Module, reduction: str = "mean") -> dict[type, Callable[[], Tensor]]:
    """Dense matrices of the squared error of all batches."""
    x, y = torch.cat(XS), torch.cat(YS)
    factor = 1 / y.numel() if reduction == "mean" else 1.0

    def loss(prediction: Tensor) -> Tensor:
        return factor * (prediction - y).square().sum()

    def of_scores() -> Tensor:
        G = references.jacobian(model, lambda call: (call(x) - y).square().sum(1))
        return factor * G.T @ G

    return {
        hesse.LossHessian: lambda: references.hessian(model, lambda call: loss(call(x))),
        hesse.GaussNewton: lambda: jtlj(model, lambda call: call(x), loss),
        hesse.Fisher: lambda: jtlj(model, lambda call: call(x), loss),
        hesse.EmpiricalFisher: of_scores,
    }


class Refilling:
    """Batches in one pair of tensors, which is filled anew for each."""

    def __init__(self, by: str) -> None:
        self._x, self._y = torch.empty_like(XS[0]), torch.empty_like(YS[0])
        self._by = by

    def __len__(self) -> int:
        return len(XS)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(XS, YS, strict=True):
            for held, given in ((self._x, x), (self._y, y)):
                if self._by == "torch":
                    held.copy_(given)
                else:
                    held.numpy()[:] = given.numpy()
            yield self._x, self._y


@pytest.mark.parametrize("by", ["torch", "numpy"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("operator", squares(mlp()))
@pytest.mark.one_in(3)
def test_a_loader_may_fill_the_same_tensors_with_each_batch(operator: type, engine: str, by: str) -> None:
    model, expected = mlp(), squares(mlp())[operator]()
    H = operator(model, nn.MSELoss(), Refilling(by), engine=engine)
    v = inputs(27, seed=7)
    for _ in range(2):
        torch.testing.assert_close(H @ v, expected @ v)
    torch.testing.assert_close(H.at().to_dense(), expected)


@pytest.mark.parametrize("how", ["in place", "data", "numpy"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("operator", squares(mlp()))
@pytest.mark.one_in(5)
def test_a_batch_that_is_written_into_is_refused(operator: type, engine: str, how: str) -> None:
    model, x = mlp(), XS[1].clone()
    H = operator(model, nn.MSELoss(), [(XS[0], YS[0]), (x, YS[1]), (XS[2], YS[2])], engine=engine)
    v = inputs(27, seed=7)
    torch.testing.assert_close(H @ v, squares(model)[operator]() @ v)
    if how == "in place":
        x.mul_(2)
    elif how == "data":
        x.data.mul_(2)
    else:
        np.multiply(x.numpy(), 2, out=x.numpy())
    with pytest.raises(hesse.StalePointError, match="Batch 1 of the data is not what it was in an earlier pass"):
        H @ v
    x.div_(2)
    torch.testing.assert_close(H.at() @ v, squares(model)[operator]() @ v)


@pytest.mark.parametrize("operator", squares(mlp()))
def test_a_loss_that_says_another_reduction_is_planned_anew(operator: type) -> None:
    model, loss = mlp(), nn.MSELoss()
    H = operator(model, loss, list(zip(XS, YS, strict=True)), engine="tape")
    torch.testing.assert_close(H.to_dense(), squares(model)[operator]())
    loss.reduction = "sum"
    torch.testing.assert_close(H.at().to_dense(), squares(model, "sum")[operator]())


def test_a_loss_of_ones_own_that_reduces_otherwise_is_planned_anew() -> None:
    model, held = mlp(), {"reduction": "mean"}
    H = hesse.LossHessian(
        model, lambda f, y: F.mse_loss(f, y, reduction=held["reduction"]), list(zip(XS, YS, strict=True)), engine="tape"
    )
    torch.testing.assert_close(H.to_dense(), squares(model)[hesse.LossHessian]())
    held["reduction"] = "sum"
    torch.testing.assert_close(H.at().to_dense(), squares(model, "sum")[hesse.LossHessian]())


def test_batch_statistics_that_come_later_are_refused_and_not_cut() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double().eval()
    batches = list(zip(XS, YS, strict=True))
    several, one = hesse.LossHessian(model, F.mse_loss, batches, engine="tape"), (inputs(64, 4), inputs(64, 3, seed=8))
    cut = hesse.LossHessian(model, F.mse_loss, one, memory="14KiB", engine="tape")
    assert cut.explain().rows is not None
    model.train()
    with pytest.raises(ValueError, match=r"The layer 1 \(BatchNorm1d\) normalizes by the statistics of each batch"):
        several.at()
    expected = references.hessian(model, lambda call: F.mse_loss(call(one[0]), one[1]))
    torch.testing.assert_close(cut.at().to_dense(), expected)


class Heads(nn.Module):
    """Predictions by name, in the order of what they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp(), seeded(nn.Linear, 4, 3)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: getattr(self, key)(entry) for key, entry in x.items()}


def of_heads(prediction: dict[str, Tensor], y: Tensor) -> Tensor:
    return ((prediction["a"] - y) ** 2 + (prediction["a"] * prediction["b"]) ** 2).sum() / len(y)


def test_predictions_in_another_order_are_told_apart() -> None:
    model = Heads()
    given = [{"a": XS[0], "b": XS[1]}, {"b": XS[2], "a": XS[0]}]
    H = hesse.GaussNewton(model, of_heads, list(zip(given, YS, strict=False)), engine="compiled")

    def of_batch(x: dict[str, Tensor], y: Tensor) -> Tensor:
        def predict(call: Callable[..., Any]) -> Tensor:
            found = call(x)
            return torch.stack([found["a"], found["b"]]).reshape(-1)

        return jtlj(
            model, predict, lambda f: of_heads(dict(zip("ab", f.reshape(2, *y.shape).unbind(), strict=True)), y)
        )

    expected = sum(of_batch(x, y) for x, y in zip(given, YS, strict=False)) / 2
    torch.testing.assert_close(H.to_dense(), expected)


@dataclasses.dataclass
class Record:
    x: Tensor
    y: Tensor


class Marked(tuple[Any, ...]):
    factor = 1.0


def _listed(place: int, factor: float) -> Any:
    return {"x": XS[place], "y": YS[place], "factors": [] if factor == 1 else ()}


def _record(place: int, factor: float) -> Any:
    made = Record(XS[place], YS[place])
    made.factor = factor  # type: ignore[attr-defined]  # set beside the fields
    return made


def _marked(place: int, factor: float) -> Any:
    made = Marked([XS[place], YS[place], "a mark"])
    made.factor = factor
    return made


FACTORS: dict[str, tuple[Callable[[int, float], Any], Callable[[Any], tuple[Tensor, Tensor, float]]]] = {
    "the class of a container": (_listed, lambda b: (b["x"], b["y"], 1.0 if isinstance(b["factors"], list) else 3.0)),
    "an attribute beside fields": (_record, lambda b: (b.x, b.y, b.factor)),
    "an attribute of a tuple": (_marked, lambda b: (b[0], b[1], b.factor)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FACTORS)
def test_what_a_batch_holds_beside_its_tensors_is_read(name: str, engine: str) -> None:
    make, read = FACTORS[name]
    model = mlp()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y, factor = read(batch)
        return factor * (model(x) - y).square().mean()

    batches = [make(0, 1.0), make(1, 3.0)]
    H = hesse.LossHessian(model, loss, batches, reduction="mean", weight=lambda batch: 1, engine=engine)
    expected = references.hessian(model, lambda call: sum(loss(call, batch) for batch in batches) / 2)
    torch.testing.assert_close(H.to_dense(), expected)


class Namespace:
    @staticmethod
    def bend(x: Tensor) -> Tensor:
        return x.sin()


class Bent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = seeded(nn.Linear, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return Namespace.bend(self.layer(x))


@pytest.mark.parametrize("operator", squares(mlp()))
@pytest.mark.one_in(2)
def test_functions_of_classes_that_are_exchanged_are_read_again(
    operator: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Bent()
    H = operator(model, nn.MSELoss(), list(zip(XS, YS, strict=True)), engine="compiled", verify=False)
    torch.testing.assert_close(H.to_dense(), squares(model)[operator]())
    monkeypatch.setattr(Namespace, "bend", staticmethod(lambda x: x.exp()))
    torch.testing.assert_close(H.at().to_dense(), squares(model)[operator]())
