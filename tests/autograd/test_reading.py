"""What a function reaches is found again wherever something of it has changed, and not walked through otherwise."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hesse._autograd.captured import reach
from hesse._autograd.reading import Reading

factor = 2.0


class Settings:
    """A class that is never called."""

    scale = 2.0


class Holder:
    """A plain object, and one with slots in it."""

    def __init__(self) -> None:
        self.entries, self.slotted = [1.0, torch.ones(1)], Slotted()

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.entries[0] * self.slotted.value


class Slotted:
    __slots__ = ("other", "value")

    def __init__(self) -> None:
        self.value = 3.0


class OfItsOwn(nn.Linear):
    """A layer whose parameters are not those that it holds."""

    count = 1

    def named_parameters(self, *arguments: Any, **words: Any) -> Any:
        yield from [(f"weight {i}", self.weight) for i in range(type(self).count)]


def _closure() -> tuple[Callable[..., Any], dict[str, Callable[[], object]]]:
    captured, more = torch.ones(2), {"a": torch.ones(1), "b": 2.0}
    chosen = {torch.float64}
    partial = functools.partial(torch.mul, other=3.0)

    def func(x: Tensor, by: float = 1.0, *, word: float = 2.0) -> Tensor:
        return partial((x * captured * by * word * factor * Settings.scale).sum() * more["b"] * len(chosen))

    def rebind() -> None:
        nonlocal captured
        captured = torch.zeros(2)

    def fill() -> None:
        more["c"] = torch.ones(3)

    def rename() -> None:
        more["d"] = more.pop("b")

    module = sys.modules[__name__]
    return func, {
        "a variable that is captured": rebind,
        "an entry of a dict": fill,
        "the key of an entry": rename,
        "an entry of a set": lambda: chosen.add(torch.float32),
        "a global": lambda: setattr(module, "factor", factor + 1.0),
        "an attribute of a class that is named": lambda: setattr(Settings, "scale", Settings.scale + 1.0),
        "defaults": lambda: setattr(func, "__defaults__", (4.0,)),
        "defaults of words": lambda: func.__kwdefaults__.update(word=torch.ones(1)),
        "words of a partial function": lambda: partial.keywords.update(other=5.0),
        "code": lambda: setattr(func, "__code__", func.__code__.replace(co_name="another")),
    }


def _deep() -> tuple[Callable[..., Any], dict[str, Callable[[], object]]]:
    def calling(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: inner(x) + 1

    functions: list[Callable[[Tensor], Tensor]] = [lambda x: x**2]
    for _ in range(6):
        functions.append(calling(functions[-1]))
    deepest = functions[0]
    return functions[-1], {
        "code that is not looked through": lambda: setattr(deepest, "__code__", (lambda x: x**3).__code__),
    }


def _module() -> tuple[Callable[..., Any], dict[str, Callable[[], object]]]:
    class Scaled(nn.Module):
        power = 2

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
            self.scale, self.settings = 1.5, {"shift": 1.0, "more": [torch.ones(2)]}
            self.register_buffer("offset", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.helped(self.inner(x)) * self.scale + self.settings["shift"] + self.offset

        def helped(self, x: Tensor) -> Tensor:
            return x**self.power

    net = Scaled()

    def func(x: Tensor) -> Tensor:
        return net(x).sum()

    def swap_class() -> None:
        net.__class__ = type("Other", (Scaled,), {"power": 4, "__module__": __name__})

    return func, {
        "an attribute": lambda: setattr(net, "scale", 2.5),
        "a parameter of a part": lambda: setattr(net.inner[0], "weight", nn.Parameter(torch.zeros(2, 2))),
        "a buffer": lambda: setattr(net, "offset", torch.ones(2)),
        "a part": lambda: net.inner.__setitem__(1, nn.ReLU()),
        "a part more": lambda: net.inner.append(nn.Linear(2, 2)),
        "the mode": net.eval,
        "an entry of an entry": lambda: net.settings["more"].append(torch.ones(1)),
        "an attribute of the class": lambda: setattr(Scaled, "power", Scaled.power + 1),
        "a method of the class": lambda: setattr(Scaled, "helped", lambda self, x: x * self.scale),
        "the class": swap_class,
    }


def _object() -> tuple[Callable[..., Any], dict[str, Callable[[], object]]]:
    holder = Holder()
    return holder, {
        "an entry of a list": lambda: holder.entries.append(2.0),
        "a slot": lambda: setattr(holder.slotted, "value", 4.0),
        "a slot that was empty": lambda: setattr(holder.slotted, "other", torch.ones(1)),
        "an attribute more": lambda: setattr(holder, "more", torch.ones(1)),
        "all attributes": lambda: setattr(holder, "__dict__", {"entries": [1.0], "slotted": holder.slotted}),
    }


def _own_ways() -> tuple[Callable[..., Any], dict[str, Callable[[], object]]]:
    net = OfItsOwn(2, 2)
    return net.forward, {"what a module says": lambda: setattr(OfItsOwn, "count", OfItsOwn.count + 1)}


def _same(found: list[tuple[str, Any]], expected: list[tuple[str, Any]]) -> bool:
    names = [name for name, _ in found] == [name for name, _ in expected]
    methods = types.MethodType | types.BuiltinMethodType  # made anew each time they are asked for
    return names and all(
        a is b or (isinstance(b, methods) and a == b) for (_, a), (_, b) in zip(found, expected, strict=True)
    )


CASES = [(make, what) for make in (_closure, _deep, _module, _object, _own_ways) for what in make()[1]]


@pytest.mark.parametrize(("make", "what"), CASES, ids=[what for _, what in CASES])
def test_a_change_of_anything_reached_is_found(make: Any, what: str) -> None:
    func, changes = make()
    reading = Reading(func)
    before = reading.now()
    assert _same(before, list(reach(func)))
    changes[what]()
    after = reading.now()
    assert after is not before
    assert _same(after, list(reach(func)))
    assert reading.last() is after


@pytest.mark.parametrize("make", [_closure, _deep, _module, _object])
def test_nothing_is_walked_through_twice_while_it_stays(make: Any) -> None:
    func, _ = make()
    reading = Reading(func)
    assert reading.now() is reading.now()
