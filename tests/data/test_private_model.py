"""What a model keeps, writes and draws: each evaluation has its own, or the model is refused, and none reaches the
user's model."""

from __future__ import annotations

import dataclasses
import functools
import random
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from hesse._autograd.blueprint import Blueprint
from tests.data import references
from tests.data.models import CLASSES, X, loader, seeded

pytestmark = pytest.mark.usefixtures("uncompiled")

ENGINES = pytest.mark.parametrize("engine", ["tape", "compiled"])


class Plain(nn.Module):
    """The model without anything kept: its first weight counts twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 3)

    def doubled(self) -> Tensor:
        return self.first.weight * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(F.linear(x, self.doubled(), self.first.bias)))


class InAttribute(Plain):
    kept: Tensor | None = None

    def doubled(self) -> Tensor:
        if self.kept is None:
            self.kept = super().doubled()
        return self.kept


class InBuffer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", None)

    def doubled(self) -> Tensor:
        if self.kept is None:
            self.kept = super().doubled()
        return self.kept


class InProperty(Plain):
    @functools.cached_property
    def kept(self) -> Tensor:
        return super().doubled()

    def doubled(self) -> Tensor:
        return self.kept


class Slots:
    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: Tensor | None = None


class InSlots(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()

    def doubled(self) -> Tensor:
        if self.slots.kept is None:
            self.slots.kept = super().doubled()
        return self.slots.kept


class InGenerator(Plain):
    weights: Iterator[Tensor] | None = None

    def _weights(self) -> Iterator[Tensor]:
        weight = super().doubled()
        while True:
            yield weight

    def doubled(self) -> Tensor:
        if self.weights is None:
            self.weights = self._weights()
        return next(self.weights)


BY_MODULE: weakref.WeakKeyDictionary[nn.Module, Tensor] = weakref.WeakKeyDictionary()


class ByModule(Plain):
    def doubled(self) -> Tensor:
        if self not in BY_MODULE:
            BY_MODULE[self] = super().doubled()
        return BY_MODULE[self]


def in_closure() -> Plain:
    model, kept = Plain(), []

    def doubled() -> Tensor:
        if not kept:
            kept.append(model.first.weight * 2)
        return kept[0]

    model.doubled = doubled  # type: ignore[method-assign]  # as users patch a method
    return model


INSIDE = [InAttribute, InBuffer, InProperty, InSlots, InGenerator, ByModule, in_closure]

OUTSIDE: dict[str, Tensor] = {}
OF_THREAD = threading.local()


class InGlobal(Plain):
    def doubled(self) -> Tensor:
        if "kept" not in OUTSIDE:
            OUTSIDE["kept"] = super().doubled()
        return OUTSIDE["kept"]


class InClass(Plain):
    kept: Tensor | None = None

    def doubled(self) -> Tensor:
        if InClass.kept is None:
            InClass.kept = super().doubled()
        return InClass.kept


class InThread(Plain):
    def doubled(self) -> Tensor:
        if not hasattr(OF_THREAD, "kept"):
            OF_THREAD.kept = super().doubled()
        return OF_THREAD.kept


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    yield
    OUTSIDE.clear()
    OF_THREAD.__dict__.clear()
    InClass.kept = None


def held(model: nn.Module) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, part in model.named_modules() for key, value in vars(part).items()}


def expected() -> Tensor:
    return references.hessian(seeded(Plain), lambda call: F.cross_entropy(call(X), CLASSES))


@ENGINES
@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.one_in(5)
def test_what_a_model_keeps_in_itself_is_made_anew_in_each_evaluation(kind: type[Plain], engine: Any) -> None:
    model = seeded(kind)
    before = held(model)
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine=engine)
    torch.testing.assert_close(H.to_dense(), expected())
    after = held(model)
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] for key in before)
    assert getattr(getattr(model, "slots", None), "kept", None) is None


@ENGINES
@pytest.mark.parametrize("kind", [InGlobal, InClass, InThread])
def test_what_a_model_keeps_outside_of_itself_is_refused(kind: Any, engine: Any, nothing_kept: None) -> None:
    model = seeded(kind)
    with pytest.raises(RuntimeError, match=r"'first\.weight' is used in a way .* a tensor made of it, is kept"):
        hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine=engine).to_dense()


def test_what_a_program_of_a_function_leaves_in_slots_is_put_back() -> None:
    model = seeded(InSlots)
    H = hesse.Hessian(lambda x: model(x).square().sum(), X[:2], engine="compiled")
    kept = model.slots.kept
    # The one evaluation of the function has filled it, with numbers.
    assert torch.equal(kept, model.first.weight * 2)
    plain = seeded(Plain)
    reference = torch.autograd.functional.hessian(lambda x: plain(x).square().sum(), X[:2])
    torch.testing.assert_close(H.to_dense(), reference.reshape(8, 8))
    assert model.slots.kept is kept


class Shared(Plain):
    """Statistics written into one tensor, and read from slices of it."""

    def __init__(self, as_buffers: bool, whole_first: bool) -> None:
        super().__init__()
        whole = torch.ones(8)
        held = {"whole": whole, "mean": whole[:4], "deviation": whole[4:]}
        for name in held if whole_first else reversed(held):
            if as_buffers:
                self.register_buffer(name, held[name])
            else:
                setattr(self, name, held[name])

    def _apply(self, change: Any, recurse: bool = True) -> Shared:
        # To double precision, with the memory shared still.
        super()._apply(change, recurse)
        self.whole = change(self.whole)
        self.mean, self.deviation = self.whole[:4], self.whole[4:]
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.whole.copy_(torch.cat([torch.full((4,), 0.5), torch.full((4,), 1.5)]))
        return super().forward((x - self.mean) / self.deviation)


@ENGINES
@pytest.mark.parametrize("whole_first", [True, False])
@pytest.mark.parametrize("as_buffers", [True, False])
@pytest.mark.one_in(3)
def test_copies_of_tensors_that_share_memory_share_theirs(as_buffers: bool, whole_first: bool, engine: Any) -> None:
    model = seeded(Shared, as_buffers, whole_first)
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine=engine)
    x = (X - 0.5) / 1.5
    reference = references.hessian(seeded(Plain), lambda call: F.cross_entropy(call(x), CLASSES))
    torch.testing.assert_close(H.to_dense(), reference)
    assert torch.equal(model.whole, torch.ones(8, dtype=torch.float64))
    assert model.mean.data_ptr() == model.whole.data_ptr()


def test_tensors_that_share_memory_in_part_are_refused_where_they_are_written_into() -> None:
    class Overlapping(Plain):
        def __init__(self, writes: bool) -> None:
            super().__init__()
            whole = torch.ones(6)
            self.low, self.high, self.writes = whole[:4], whole[2:], writes

        def forward(self, x: Tensor) -> Tensor:
            if self.writes:
                self.low.fill_(2)
            return super().forward(x * self.high)

    torch.testing.assert_close(
        hesse.LossHessian(seeded(Overlapping, False), F.cross_entropy, loader(X, CLASSES)).to_dense(), expected()
    )
    with pytest.raises(RuntimeError, match=r"writes into a tensor of shape \(4,\) that shares memory"):
        hesse.LossHessian(seeded(Overlapping, True), F.cross_entropy, loader(X, CLASSES))


class Drawing(Plain):
    """Noise of generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rngs = [
            torch.Generator().manual_seed(1),
            random.Random(2),
            np.random.default_rng(3),
            np.random.RandomState(4),  # users have them
        ]

    def draw(self) -> list[float]:
        torchs, pythons, numpys, old = self.rngs
        return [float(torch.rand((), generator=torchs)), pythons.random(), numpys.random(), old.random()]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.tensor(self.draw(), dtype=torch.float64))


@pytest.mark.parametrize("memory", [None, "2600B"], ids=["kept", "recomputed"])
def test_generators_of_a_model_are_where_they_were(memory: str | None) -> None:
    model = seeded(Drawing)
    drawn = torch.tensor(seeded(Drawing).draw(), dtype=torch.float64)
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), memory=memory)
    reference = references.hessian(seeded(Plain), lambda call: F.cross_entropy(call(X + drawn), CLASSES))
    torch.testing.assert_close(H.to_dense(), reference)
    assert model.draw() == drawn.tolist()
    # The point's numbers stay those of its start.
    torch.testing.assert_close(H.to_dense(), reference)


class Regularized(nn.Module):
    """A loss that leads to a layer of the model, and to a list that the model has as well."""

    def __init__(self, layer: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.seen = layer, seen


def test_a_loss_is_copied_with_what_it_leads_to_and_no_more() -> None:
    seen: list[Tensor] = [torch.ones(1)]
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh())
    model.seen = seen  # type: ignore[assignment]  # a list, which modules may hold
    loss = Regularized(model[1], seen)
    blueprint = Blueprint(model, loss, lambda x: loss(x))
    tensors = [tensor.clone() for tensor in blueprint.tensors]
    fresh, function = blueprint.make(tensors, 1)
    assert function.__closure__[0].cell_contents is fresh
    assert type(fresh.layer) is nn.BatchNorm1d
    assert fresh.layer is not model[1]
    places = {id(tensor): place for place, tensor in enumerate(blueprint.tensors)}
    assert fresh.layer.running_mean is tensors[places[id(model[1].running_mean)]]
    assert fresh.seen is not seen
    assert fresh.seen[0] is tensors[places[id(seen[0])]]
    nodes, used = blueprint.needed(1)
    copied = [blueprint.nodes[place] for place in nodes]
    assert not any(module in copied for module in (model, model[0], model[2]))
    assert used == {places[id(tensor)] for tensor in [*model[1].parameters(), *model[1].buffers(), *seen]}


@dataclasses.dataclass(frozen=True)
class Place:
    row: int


class Keyed(nn.Module):
    """Looks its factor up by an object that is hashed by what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1).double()
        self.factors = {Place(1): 2.0, Place(2): 5.0}
        self.known = {(Place(1),)}

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.factors[Place(1)] * self.layer(x)
        return found if (Place(1),) in self.known else 0 * found


def test_keys_may_be_hashed_by_what_they_hold() -> None:
    model, x = Keyed(), torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    H = hesse.LossHessian(model, nn.MSELoss(), [(x, torch.ones(4, 1, dtype=torch.float64))])
    # The mean of (2 (w·x + b) − 1)² over four rows.
    rows = torch.cat([x, torch.ones(4, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(H.to_dense(), 2 * rows.T @ rows)
