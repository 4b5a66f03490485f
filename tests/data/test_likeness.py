"""Models that ask who a parameter is, beside what it holds: by its identity, its class, or an attribute of it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import CLASSES, X, seeded

pytestmark = pytest.mark.usefixtures("uncompiled")


class Penalized(nn.Module):
    """Layers, and a factor that is made of some of their parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3).double(), nn.Linear(3, 3).double()
        self.mark()

    def mark(self) -> None:
        """Say which parameters count."""

    def counts(self, parameter: Tensor) -> bool:
        """Whether one does."""
        raise NotImplementedError

    def factor(self) -> Any:
        return 1 + sum(parameter.square().sum() for parameter in self.parameters() if self.counts(parameter))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * self.factor()


class BySet(Penalized):
    def mark(self) -> None:
        self.marked = {self.first.weight}

    def counts(self, parameter: Tensor) -> bool:
        return parameter in self.marked


class ByKey(Penalized):
    def mark(self) -> None:
        self.marked = {self.first.weight: True}

    def counts(self, parameter: Tensor) -> bool:
        return self.marked.get(parameter, False)


class ByIdentity(Penalized):
    def mark(self) -> None:
        self.marked = [self.first.weight]

    def counts(self, parameter: Tensor) -> bool:
        return any(parameter is other for other in self.marked)


class ByNumber(Penalized):
    def mark(self) -> None:
        self.marked = {id(self.first.weight)}

    def counts(self, parameter: Tensor) -> bool:
        return id(parameter) in self.marked


class ByAttribute(Penalized):
    def mark(self) -> None:
        self.first.weight.marked = True  # type: ignore[attr-defined]  # as users do

    def counts(self, parameter: Tensor) -> bool:
        return getattr(parameter, "marked", False)


class ByClass(Penalized):
    class Marked(nn.Parameter):
        pass

    def mark(self) -> None:
        self.first.weight = self.Marked(self.first.weight.detach())

    def counts(self, parameter: Tensor) -> bool:
        return isinstance(parameter, self.Marked)


class ByKind(Penalized):
    def counts(self, parameter: Tensor) -> bool:
        return isinstance(parameter, nn.Parameter)


class ByModule(Penalized):
    def mark(self) -> None:
        self.factors = weakref.WeakKeyDictionary({self.first: 3.0})

    def factor(self) -> Any:
        return self.factors.get(self.first, 1.0)


class ByNumberOfModule(Penalized):
    def mark(self) -> None:
        self.factors = {id(self.first): 3.0}

    def factor(self) -> Any:
        return self.factors.get(id(self.first), 1.0)


class OfBuffer(Penalized):
    def mark(self) -> None:
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.scale.power = 2.0

    def factor(self) -> Any:
        self.scale.add_(1)
        return self.scale ** getattr(self.scale, "power", 1.0)


class Mark:
    def __init__(self, name: str) -> None:
        self.name = name


GLOBAL: dict[Any, float] = {}
MARK = Mark("doubled")


class ByGlobal(Penalized):
    def mark(self) -> None:
        GLOBAL[self.first], GLOBAL[self.second.weight] = 3.0, 4.0

    def factor(self) -> Any:
        return GLOBAL.get(self.first, 1.0) * GLOBAL.get(self.second.weight, 1.0)


class ByMark(Penalized):
    def mark(self) -> None:
        self.kind = MARK

    def factor(self) -> Any:
        return 2.0 if is_doubled(self) else 1.0


def is_doubled(model: ByMark) -> bool:
    return model.kind is MARK


KINDS = [
    BySet,
    ByKey,
    ByIdentity,
    ByNumber,
    ByAttribute,
    ByClass,
    ByKind,
    ByModule,
    ByNumberOfModule,
    OfBuffer,
    ByGlobal,
    ByMark,
]


@pytest.mark.parametrize(
    ("kind", "engine"),
    # Programs refuse parameters of other classes.
    [(kind, engine) for kind in KINDS for engine in ("tape", "compiled") if (kind, engine) != (ByClass, "compiled")],
)
@pytest.mark.one_in(12)
def test_a_model_finds_its_parameters_as_it_knows_them(kind: type[Penalized], engine: Any) -> None:
    expected = references.of_its_own(seeded(kind), lambda model: F.cross_entropy(model(X), CLASSES))
    model = seeded(kind)
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES), engine=engine)
    torch.testing.assert_close(H.to_dense(), expected)
    torch.testing.assert_close(H.at(parameters=dict(model.named_parameters())).to_dense(), expected)
    assert all(type(vars(parameter)) is dict and "_is_param" not in vars(parameter) for parameter in model.parameters())


def test_a_loss_finds_parameters_in_a_set() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        decayed = sum(parameter.square().sum() for parameter in model.parameters() if id(parameter) not in apart)
        return F.cross_entropy(model(batch[0]), batch[1]) + decayed

    model = seeded(nn.Linear, 4, 3)
    apart = {id(model.bias)}
    H = hesse.LossHessian(model, loss, [(X, CLASSES)], call=lambda model, loss, batch: loss(model, batch))
    torch.testing.assert_close(H.to_dense(), references.of_its_own(model, lambda model: loss(model, (X, CLASSES))))
