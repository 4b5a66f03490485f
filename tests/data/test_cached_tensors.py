"""Models that keep a tensor made of their parameters, from an evaluation before: filled anew, or refused aloud."""

from __future__ import annotations

import types
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import hesse

pytestmark = pytest.mark.usefixtures("uncompiled")

DOUBLE = torch.float64


class Cached(nn.Module):
    """Biases picked from a table, as LeViT's attention keeps them in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, dtype=DOUBLE)
        self.bias = nn.Parameter(torch.randn(5, dtype=DOUBLE))
        self.cache: dict[str, Tensor] = {}
        self.register_buffer("places", torch.tensor([0, 4, 2]))

    def biases(self, x: Tensor) -> Tensor:
        key = str(x.device)
        if key not in self.cache:
            self.cache[key] = self.bias[self.places]
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x) * self.biases(x))


class InAttribute(Cached):
    """The same in an attribute."""

    kept: Tensor | None = None

    def biases(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.bias[self.places]
        return self.kept


class InObject(Cached):
    """The same in an object of its own."""

    class Memory:
        def __init__(self) -> None:
            self.found: dict[str, Tensor] = {}

    def __init__(self) -> None:
        super().__init__()
        self.memory = InObject.Memory()

    def biases(self, x: Tensor) -> Tensor:
        if "biases" not in self.memory.found:
            self.memory.found["biases"] = self.bias[self.places]
        return self.memory.found["biases"]


class InDefault(Cached):
    """The same in an object that begins without attributes."""

    class Memory:
        found: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.memory = self.Memory()

    def biases(self, x: Tensor) -> Tensor:
        if self.memory.found is None:
            self.memory.found = self.bias[self.places]
        return self.memory.found


class InNamespace(InDefault):
    """The same in one of Python's own."""

    Memory = staticmethod(lambda: types.SimpleNamespace(found=None))  # type: ignore[assignment]  # in place of a class


class InClass(Cached):
    """The same in a dict of the class, which all models of it share."""

    shared: ClassVar[dict[str, Tensor]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.shared.clear()

    def biases(self, x: Tensor) -> Tensor:
        if "biases" not in self.shared:
            self.shared["biases"] = self.bias[self.places]
        return self.shared["biases"]


class Made(Cached):
    """Not a cache: a term that an evaluation passes over where it is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = self.bias[self.places] ** 2

    def biases(self, x: Tensor) -> Tensor:
        return self.bias[self.places] + (0 if self.kept is None else self.kept)


class Needed(Made):
    """The same, where nothing goes without it."""

    def biases(self, x: Tensor) -> Tensor:
        assert self.kept is not None
        return self.kept


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 3, dtype=DOUBLE, generator=generator)
    return x, y


def reference(model: Cached, v: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and product by differences of the loss written out."""
    x, y = data()
    shapes = [parameter.shape for parameter in model.parameters()]
    point = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        named = dict(zip(dict(model.named_parameters()), map(Tensor.reshape, parts, shapes), strict=True))
        biases = named["bias"][torch.tensor([0, 4, 2])]
        predicted = torch.tanh((x @ named["layer.weight"].mT + named["layer.bias"]) * biases)
        return (predicted - y).square().mean()

    gradient = torch.func.grad(loss)
    return gradient(point), (gradient(point + 1e-5 * v) - gradient(point - 1e-5 * v)) / 2e-5


def held(model: Cached) -> dict[str, Any]:
    """What the model, its memory and its class hold."""
    everything = {**vars(model), "memory's": vars(getattr(model, "memory", model)), "shared": InClass.shared}
    return {key: dict(value) if isinstance(value, dict) else value for key, value in everything.items()}


class WithMark(Cached):
    """An object without attributes that is known by its identity is no cache, and stays the same."""

    mark = type("Mark", (), {})()

    def __init__(self) -> None:
        super().__init__()
        self.given = self.mark

    def biases(self, x: Tensor) -> Tensor:
        return self.bias[self.places] if self.given is WithMark.mark else x


def test_a_mark_is_not_copied() -> None:
    torch.manual_seed(0)
    model = WithMark()
    H = hesse.LossHessian(model, nn.MSELoss(), data())
    v = torch.randn(H.shape[1], dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(H @ v, reference(model, v)[1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("engine", ["tape", "compiled"])
@pytest.mark.parametrize("kind", [Cached, InAttribute, InObject, InDefault, InNamespace, InClass])
@pytest.mark.parametrize("is_filled", [False, True])
@pytest.mark.one_in(13)
def test_a_cache_is_filled_anew(kind: type[Cached], engine: Any, is_filled: bool) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    x, y = data()
    if is_filled:
        model(x)
    before = held(model)
    H = hesse.LossHessian(model, nn.MSELoss(), [(x[:4], y[:4]), (x[4:], y[4:])], engine=engine)
    v = torch.randn(H.shape[1], dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    gradient, product = reference(model, v)
    torch.testing.assert_close(H @ v, product, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(H.flatten(H.gradient), gradient)
    torch.testing.assert_close(
        hesse.GaussNewton(model, nn.MSELoss(), (x, y)).flatten(hesse.GaussNewton(model, nn.MSELoss(), (x, y)).gradient),
        gradient,
    )
    after = held(model)
    assert before.keys() == after.keys()
    for key in ("cache", "kept", "memory", "memory's", "shared"):
        assert before.get(key) is after.get(key) or before[key] == after[key]


def test_check_finds_nothing_wrong_with_a_filled_cache() -> None:
    torch.manual_seed(0)
    model = Cached().eval()
    model(data()[0])
    problem = hesse.Problem(model=model, loss=nn.MSELoss(), data=data())
    assert not hesse.check(*problem.function(), rng=0).findings


@pytest.mark.parametrize("kind", [Made, Needed])
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher])
def test_what_is_no_cache_is_refused(kind: type[Cached], operator: Any) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    with pytest.raises(RuntimeError, match="The parameter 'bias' is used in a way that"):
        operator(model, nn.MSELoss(), data()).gradient  # noqa: B018  # its evaluation raises
