"""One program for many points: nothing of a point is baked in, and what is baked in is watched."""

from __future__ import annotations

import array
import collections
import contextvars
import ctypes
import dataclasses
import importlib
import math
import os
import sys
import textwrap
import types
from collections.abc import Callable
from decimal import Decimal
from functools import partial, partialmethod
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse._autograd import code_names
from hesse._linearize.program import backends

from . import programs

THREE = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def cubic(calls: collections.deque[bool]) -> Any:
    """Σx³, noting for each run whether it ran on numbers, where no program watches."""

    def func(x: Tensor) -> Tensor:
        calls.append(type(x) is Tensor)
        return (x**3).sum()

    return func


def test_a_point_laid_out_alike_uses_the_program_again() -> None:
    calls: collections.deque[bool] = collections.deque()
    H = programs.hessian(cubic(calls), THREE)
    moved = H.at(2 * THREE)
    assert torch.equal(moved @ THREE, 12 * THREE * THREE)
    assert torch.equal(H @ THREE, 6 * THREE * THREE)
    assert moved.explain().programs == 1
    # Each point is evaluated once, by the tape that the program is compared with; what stand-ins leave is put back.
    assert list(calls) == [True, True]


def test_without_verification_a_new_point_does_not_run_the_function() -> None:
    calls: collections.deque[bool] = collections.deque()
    H = programs.hessian(cubic(calls), THREE, verify=False)
    # After two products the next point has two halves, which are not new.
    H @ THREE, H @ THREE
    moved = H.at(2 * THREE)
    assert (len(calls), float(moved.value), moved.explain().programs) == (1, 288.0, 1)
    assert torch.equal(moved.gradient, 12 * THREE**2)
    assert torch.equal(moved @ THREE, 12 * THREE * THREE)


@pytest.mark.parametrize("other", [torch.ones(4, dtype=torch.float64), THREE.float(), THREE.repeat(2)[::2]])
def test_another_shape_dtype_or_stride_is_one_more_program(other: Tensor) -> None:
    H = programs.hessian(lambda x: (x**3).sum(), THREE)
    moved = H.at(other)
    assert moved.explain().programs == 2
    torch.testing.assert_close(moved @ torch.ones_like(other), 6 * other)
    back = moved.at(THREE + 1)
    assert back.explain().programs == 2
    assert torch.equal(back @ THREE, 6 * (THREE + 1) * THREE)


def test_a_training_loop_needs_one_program() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    batch = {"features": torch.randn(5, 3).double(), "targets": torch.randn(5, 1).double()}
    parameters = dict(net.named_parameters())

    def loss(p: dict[str, Tensor]) -> Tensor:
        output = torch.func.functional_call(net, p, (batch["features"],))
        return nn.functional.mse_loss(output, batch["targets"])

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    H = programs.hessian(loss, parameters)
    for step in range(4):
        # Another batch each time: the tensor that the name leads to is read, not one that was found once.
        batch["features"] = torch.randn(5, 3).double()
        optimizer.zero_grad()
        loss(parameters).backward()
        optimizer.step()
        H = H.at(parameters)
        vector = torch.randn(H.shape[0], dtype=torch.float64)
        torch.testing.assert_close(H @ vector, hesse.Hessian(loss, parameters) @ vector)
        assert H.explain().programs == 1, step


def test_a_captured_tensor_changed_in_place_is_read_again() -> None:
    weight = torch.ones(3, dtype=torch.float64)
    H = programs.hessian(lambda x: (weight * x**3).sum(), THREE)
    weight.mul_(5)
    with pytest.raises(hesse.StalePointError, match="'weight' has changed in place"):
        H @ THREE
    assert torch.equal(H.at(THREE) @ THREE, 30 * THREE**2)
    assert H.at(THREE).explain().programs == 1


def test_two_names_of_one_tensor_may_become_two_tensors() -> None:
    held = {"a": torch.ones(3, dtype=torch.float64)}
    held["b"] = held["a"]
    H = programs.hessian(lambda x: (held["a"] * x**3 + held["b"] * x**2).sum(), THREE)
    held["b"] = torch.full((3,), 7.0, dtype=torch.float64)
    assert torch.equal(H.at(THREE) @ THREE, (6 * THREE + 14) * THREE)


settings = types.ModuleType("settings")
scale = 2.0


class Scaled:
    def __init__(self) -> None:
        self.factor = 2.0
        self._hidden = np.array([2.0])

    def __call__(self, x: Tensor) -> Tensor:
        return self.factor * float(self._hidden[0]) * (x**2).sum()


@pytest.mark.exhaustive
def test_python_numbers_are_watched_wherever_the_function_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    local, obj = 2.0, Scaled()
    settings.scale = 2.0  # type: ignore[attr-defined]  # a module made here

    def func(x: Tensor) -> Tensor:
        return local * scale * settings.scale * obj(x)

    H = programs.hessian(func, THREE)
    assert torch.equal(H @ THREE, 64 * THREE)
    local = 4.0
    H = H.at(THREE)
    assert torch.equal(H @ THREE, 128 * THREE)
    monkeypatch.setitem(globals(), "scale", 4.0)
    H = H.at(THREE)
    assert torch.equal(H @ THREE, 256 * THREE)
    settings.scale = 4.0  # type: ignore[attr-defined]  # as above
    H = H.at(THREE)
    assert torch.equal(H @ THREE, 512 * THREE)
    obj.factor = 4.0
    H = H.at(THREE)
    assert torch.equal(H @ THREE, 1024 * THREE)
    obj._hidden[0] = 4.0
    H = H.at(THREE)
    assert torch.equal(H @ THREE, 2048 * THREE)
    assert H.explain().programs == 6


def test_what_a_function_imports_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    def func(x: Tensor) -> Tensor:
        import a_users_settings  # type: ignore[import-not-found]  # made below
        from a_users_settings import power

        return a_users_settings.factor * (x**power).sum()  # type: ignore[no-any-return]  # of a module of any kind

    module: Any = types.ModuleType("a_users_settings")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.factor, module.power = 2.0, 3
    H = programs.hessian(func, THREE, verify=False)
    H @ THREE
    for module.factor, module.power in ((5.0, 3), (5.0, 2)):
        H = H.at(THREE + 0)
        expected = module.factor * module.power * (module.power - 1) * THREE ** (module.power - 2) * THREE
        torch.testing.assert_close(H @ THREE, expected)


def test_a_file_of_the_users_may_be_called_as_one_of_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
    import torch
    speed, weights = 2.0, torch.ones(3, dtype=torch.float64)
    def energy(x):
        return speed * (weights * x**3).sum()
    """
    (tmp_path / "wave.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    wave: Any = importlib.import_module("wave")
    monkeypatch.setitem(sys.modules, "wave", wave)
    H = programs.hessian(wave.energy, THREE).at(THREE)
    wave.speed = 5.0
    H = H.at(THREE)
    torch.testing.assert_close(H @ THREE, 30 * THREE**2)
    wave.weights.mul_(2)
    with pytest.raises(hesse.StalePointError, match="'weights' has changed in place"):
        H @ THREE
    torch.testing.assert_close(H.at(THREE) @ THREE, 60 * THREE**2)


def test_what_is_set_on_modules_of_libraries_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = sys

    def func(x: Tensor) -> Tensor:
        factor = inner.a_users_factor + torch.backends.a_users_factor + getattr(math, "a_users_factor", 0.0)
        return factor * (x**3).sum()

    monkeypatch.setattr(sys, "a_users_factor", 1.0, raising=False)
    monkeypatch.setattr(torch.backends, "a_users_factor", torch.tensor(2.0), raising=False)
    H = hesse.Hessian(func, THREE, engine="compiled", verify=False)
    torch.testing.assert_close(H @ THREE, 3 * 6 * THREE**2)
    for holder, value, factor in (
        (sys, 3.0, 5.0),
        (torch.backends, torch.tensor(5.0), 8.0),
        (math, 4.0, 12.0),
    ):
        monkeypatch.setattr(holder, "a_users_factor", value, raising=False)
        H = H.at(THREE + 0)
        torch.testing.assert_close(H @ THREE, factor * 6 * THREE**2)


def test_attributes_of_classes_are_read_again() -> None:
    class Meta(type):
        power = 3

    class Settings(metaclass=Meta):
        table: ClassVar[dict[str, float]] = {"factor": 2.0}

    H = hesse.Hessian(lambda x: Settings.table["factor"] * (x**Settings.power).sum(), THREE, engine="compiled")
    torch.testing.assert_close(H @ THREE, 12 * THREE**2)
    for factor, Meta.power in ((5.0, 3), (5.0, 2), (7.0, 2)):
        Settings.table["factor"] = factor
        H = H.at(THREE + 0)
        expected = factor * Meta.power * (Meta.power - 1) * THREE ** (Meta.power - 2) * THREE
        torch.testing.assert_close(H @ THREE, expected)


def _scaled(held: Any, x: Tensor) -> Tensor:
    return held.scale * x**3


def _times(x: Tensor, factor: float) -> Tensor:
    return factor * x**3


def _handed_to(way: str) -> tuple[Callable[[Tensor], Tensor], Callable[[float], None]]:
    """A function of which another one reads the factor 2, and what sets that factor."""

    class Held:
        scale = 2.0
        kept = partial(_times, factor=2.0)
        method = partialmethod(lambda held, x, power: held.scale * x**power, power=3)

    class Layer(nn.Module):
        scale = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self, x) if hasattr(self, "read") else x

    def scaled(x: Tensor) -> Tensor:
        return scaled.scale * x**3  # type: ignore[attr-defined]  # mypy knows no attributes of functions

    def reset(factor: float) -> None:
        Held.kept = partial(_times, factor=factor)

    held, layer, of = Held(), Layer(), attrgetter("scale")
    stored = {"read": lambda held, x: _scaled(held, x), "held": held, "class": Held}
    scaled.scale = 2.0  # type: ignore[attr-defined]  # as above
    if way == "stored in a module":
        layer.read = stored["read"]
    if way == "hook":
        layer.register_forward_hook(lambda layer, _, x: _scaled(layer, x))
    if way == "hook before":
        layer.register_forward_pre_hook(lambda layer, inputs: (_scaled(layer, inputs[0]),))
    ways: dict[str, tuple[Callable[[Tensor], Tensor], Any]] = {
        "global function": (lambda x: _scaled(held, x), Held),
        "stored function": (lambda x: stored["read"](stored["held"], x), Held),
        "class handed on": (lambda x: stored["read"](stored["class"], x), Held),
        "stored in a module": (layer, Layer),
        "hook": (layer, Layer),
        "hook before": (layer, Layer),
        "attributes by name": (lambda x: of(held) * x**3, Held),
        "attribute of a function": (lambda x: stored["held"] and scaled(x), scaled),
        "partial method": (lambda x: held.method(x), Held),
    }
    if way == "partial function of a class":
        return lambda x: held.kept(x).sum(), reset
    func, owner = ways[way]
    return lambda x: func(x).sum(), lambda factor: setattr(owner, "scale", factor)


@pytest.mark.parametrize(
    "way",
    [
        *("global function", "stored function", "class handed on", "stored in a module", "hook", "hook before"),
        *("attributes by name", "attribute of a function", "partial method", "partial function of a class"),
    ],
)
@pytest.mark.one_in(6)
def test_what_a_function_reads_of_what_it_is_handed_is_read_again(way: str) -> None:
    func, change = _handed_to(way)
    H = programs.hessian(func, THREE)
    torch.testing.assert_close(H @ THREE, 12 * THREE**2)
    change(5.0)
    torch.testing.assert_close(H.at(THREE + 0) @ THREE, 30 * THREE**2)


def test_a_hook_that_comes_later_is_noticed() -> None:
    layer = nn.Identity()
    H = programs.hessian(lambda x: (layer(x) ** 3).sum(), THREE)
    torch.testing.assert_close(H @ THREE, 6 * THREE**2)
    layer.register_forward_hook(lambda *given: 2 * given[-1])
    torch.testing.assert_close(H.at(THREE + 0) @ THREE, 48 * THREE**2)


def test_modules_named_from_a_package_are_found_by_their_full_names() -> None:
    source = "def func():\n from . import one\n from .two import three\n from ..four import five\n import six.seven"
    assert code_names.imported(compile(source, "", "exec"), "a.b") == ("a.b", "a.b.two", "a.four", "six.seven", "six")


def test_numbers_that_come_from_numpy_are_watched() -> None:
    data = np.ones(3)
    H = programs.hessian(lambda x: (torch.from_numpy(data) * torch.tensor(data) * x**2).sum(), THREE)
    data[1] = 3.0
    assert torch.equal(H.at(THREE) @ torch.ones(3).double(), torch.tensor([2.0, 18.0, 2.0]).double())


def test_another_function_in_a_variable_is_another_program() -> None:
    act = torch.sin
    H = programs.hessian(lambda x: act(x).sum(), THREE)
    act = torch.exp
    torch.testing.assert_close(H.at(THREE) @ torch.ones(3).double(), THREE.exp())


def test_training_mode_is_part_of_a_program() -> None:
    drop = nn.Dropout(0.5)
    H = programs.hessian(lambda x: (drop(x) ** 2).sum(), torch.ones(100, dtype=torch.float64))
    assert set((H @ torch.ones(100).double()).tolist()) == {0.0, 8.0}
    drop.eval()
    assert set((H.at(torch.ones(100).double()) @ torch.ones(100).double()).tolist()) == {2.0}


def test_a_shape_that_is_read_without_its_tensor_is_watched() -> None:
    data = {"rows": torch.zeros(2)}
    H = programs.hessian(lambda x: (x**2).sum() / len(data["rows"]), THREE)
    data["rows"] = torch.zeros(4)
    assert torch.equal(H.at(THREE) @ THREE, 0.5 * THREE)


def test_a_number_that_changes_at_each_point_is_named() -> None:
    held = {"step": 0}
    H = programs.hessian(lambda x: (x**2).sum() * (1 + 0 * held["step"]), THREE)
    for held["step"] in range(1, 8):
        H = H.at(THREE)
    assert H.explain().programs == 8
    held["step"] = 8
    with pytest.raises(hesse.CaptureError, match=r"captured 8 times already, since 'held\.step' is different"):
        H.at(THREE)


def test_arguments_that_are_no_variables_are_read_again() -> None:
    H = programs.hessian(lambda x, w: (w * x**3).sum(), (THREE, torch.ones(3).double()), argnums=0)
    moved = H.at((THREE, torch.full((3,), 5.0, dtype=torch.float64)))
    assert torch.equal(moved @ THREE, 30 * THREE**2)
    assert moved.explain().programs == 1


def test_inputs_in_another_order_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at points where a program is not compared with the tape."""
    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)

    def func(at: dict[str, Tensor]) -> Tensor:
        return (at["a"] ** 3).sum() + (at["b"] ** 4).sum() + at["a"] @ at["b"]

    v = {"a": THREE, "b": THREE.sin()}
    H = programs.hessian(func, {"a": THREE, "b": THREE.cos()}, verify=False)
    product = hesse.func.hvp(func, engine="compiled", verify=False)
    gradient = hesse.func.grad(func, engine="compiled", verify=False)
    for scale, keys in enumerate(["ab", "ab", "ba", "ab", "ba"], start=1):
        a, b = scale * THREE, scale * THREE.cos()
        at = {key: a if key == "a" else b for key in keys}
        expected = {"a": 6 * a * v["a"] + v["b"], "b": 12 * b**2 * v["b"] + v["a"]}
        H = H.at(at)
        for found in (H @ v, product(at, v)):
            torch.testing.assert_close(found, {key: expected[key] for key in keys})
        torch.testing.assert_close(gradient(at), {key: {"a": 3 * a**2 + b, "b": 4 * b**3 + a}[key] for key in keys})
    assert H.explain().programs == 2


def test_settings_of_pytorch_are_part_of_a_program() -> None:
    weight = torch.randn(3, 3)
    x = torch.randn(3)
    H = programs.hessian(lambda x: ((weight @ x) ** 2).sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = H.at(x)
        expected = hesse.Hessian(lambda x: ((weight @ x) ** 2).sum(), x)
    assert moved.explain().programs == 2
    torch.testing.assert_close(moved.gradient, expected.gradient)


def test_blocks_and_structured_vectors_are_replayed_by_the_same_program() -> None:
    H = programs.hessian(lambda x, y: (x * y**2).sum(), (THREE, THREE + 1))
    assert torch.equal(H.block(0, 1) @ THREE, 2 * (THREE + 1) * THREE)
    assert torch.equal(H.block(1) @ THREE, 2 * THREE * THREE)
    product = H @ (THREE, torch.zeros(3).double())
    assert torch.equal(product[0], torch.zeros(3))
    assert torch.equal(product[1], 2 * (THREE + 1) * THREE)


class Slotted:
    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 2.0


class BelowSlotted(Slotted):
    __slots__ = ("other",)


class Marked(tuple[int, ...]):
    factor: float


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], float], Callable[[Any], Any]]] = {
    "bytes": (lambda: bytearray([2]), lambda d: d[0], lambda d: d.__setitem__(0, 5)),
    "a view of bytes": (lambda: memoryview(bytearray([2])), lambda d: d[0], lambda d: d.__setitem__(0, 5)),
    "an array": (lambda: array.array("d", [2.0]), lambda d: d[0], lambda d: d.__setitem__(0, 5.0)),
    "a number of C": (lambda: ctypes.c_double(2.0), lambda d: d.value, lambda d: setattr(d, "value", 5.0)),
    "an array of objects": (
        lambda: np.array([2.0, "a"], dtype=object),
        lambda d: d[0],
        lambda d: d.__setitem__(0, 5.0),
    ),
    "a context variable": (
        lambda: contextvars.ContextVar("held", default=2.0),
        lambda d: d.get(),
        lambda d: d.set(5.0),
    ),
    "slots of a class above": (BelowSlotted, lambda d: d.factor, lambda d: setattr(d, "factor", 5.0)),
    "a range": (lambda: [range(2)], lambda d: len(d[0]), lambda d: d.__setitem__(0, range(5))),
    "a slice": (lambda: [slice(2)], lambda d: d[0].stop, lambda d: d.__setitem__(0, slice(5))),
    "a decimal": (lambda: [Decimal(2)], lambda d: float(d[0]), lambda d: d.__setitem__(0, Decimal(5))),
}


def _attribute_of(value: Any) -> Any:
    value.factor = 2.0
    return value


HELD |= {
    f"an attribute of {name}": (made, lambda d: d.factor, lambda d: setattr(d, "factor", 5.0))
    for name, made in {
        "a tuple": lambda: _attribute_of(Marked([1])),
        "a tensor": lambda: _attribute_of(torch.ones(3)),
        "a parameter": lambda: _attribute_of(nn.Parameter(torch.ones(3))),
    }.items()
}


@pytest.mark.parametrize("name", HELD)
@pytest.mark.one_in(7)
def test_what_is_read_of_any_object_of_pythons_is_read_again(name: str) -> None:
    make, read, change = HELD[name]
    held = make()
    # Points 1 and 2 are compared with the tape, and point 3 is not.
    H = programs.hessian(lambda x: read(held) * (x**3).sum(), THREE).at(2 * THREE)
    torch.testing.assert_close(H @ THREE, 24 * THREE**2)
    change(held)
    torch.testing.assert_close(H.at(THREE) @ THREE, 30 * THREE**2)


def test_a_mapping_of_what_changes_elsewhere_is_read_again() -> None:
    factors = {"a": 2.0}
    view = types.MappingProxyType(factors)
    H = programs.hessian(lambda x: view["a"] * (x**3).sum(), THREE).at(2 * THREE)
    factors["a"] = 5.0
    torch.testing.assert_close(H.at(THREE) @ THREE, 30 * THREE**2)


def test_a_layer_of_another_class_is_another_program() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Identity())
    H = programs.hessian(lambda x: (net(x) ** 3).sum(), THREE).at(2 * THREE)
    net[0] = nn.SiLU()
    expected = torch.autograd.functional.hvp(lambda x: (nn.functional.silu(x) ** 3).sum(), THREE, THREE)[1]
    torch.testing.assert_close(H.at(THREE + 0) @ THREE, expected)


def _shared(kind: str) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    """Two factors, 2 and 5, of which a third place holds one; and what puts the other there."""
    if kind == "modules":
        first, second = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
        with torch.no_grad():
            first.weight.fill_(2.0), second.weight.fill_(5.0)
        layers = nn.ModuleList([first, second, first])
        return lambda x: layers[2](x[:, None] ** 3).sum(), lambda: layers.__setitem__(2, second)
    if kind == "parameters":
        net = nn.ModuleList([nn.Linear(1, 1, bias=False).double() for _ in range(3)])
        with torch.no_grad():
            net[0].weight.fill_(2.0), net[1].weight.fill_(5.0)
        net[2].weight = net[0].weight
        return lambda x: net[2](x[:, None] ** 3).sum(), lambda: setattr(net[2], "weight", net[1].weight)
    if kind == "functions":

        def times(factor: float) -> Callable[[Tensor], Tensor]:
            return lambda x: factor * (x**3).sum()

        held: list[Any] = [times(2.0), times(5.0)]
        held.append(held[0])
        return lambda x: held[2](x), lambda: held.__setitem__(2, held[1])  # type: ignore[no-any-return]  # a function
    entries = [[2.0], [5.0]]
    entries.append(entries[0])
    return lambda x: entries[2][0] * (x**3).sum(), lambda: entries.__setitem__(2, entries[1])


@pytest.mark.parametrize("kind", ["modules", "parameters", "functions", "lists"])
@pytest.mark.one_in(3)
def test_what_has_several_names_may_be_another_of_them_later(kind: str) -> None:
    func, change = _shared(kind)
    H = programs.hessian(func, THREE).at(2 * THREE)
    torch.testing.assert_close(H @ THREE, 24 * THREE**2)
    change()
    torch.testing.assert_close(H.at(THREE + 0) @ THREE, 30 * THREE**2)


def test_a_hook_of_the_backward_that_comes_later_is_noticed() -> None:
    layer = nn.Identity()
    H = programs.hessian(lambda x: (layer(x) ** 3).sum(), THREE).at(2 * THREE)
    layer.register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))
    expected = torch.autograd.functional.hvp(lambda x: (layer(x) ** 3).sum(), THREE, THREE)[1]
    torch.testing.assert_close(H.at(THREE + 0) @ THREE, expected)
    assert not torch.equal(expected, 6 * THREE**2)


def test_a_program_that_has_differed_once_is_compared_at_each_further_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HESSE_TEST_FACTOR", "2")
    H = programs.hessian(lambda x: float(os.environ["HESSE_TEST_FACTOR"]) * (x**3).sum(), THREE)
    for factor, is_right in (("5", False), ("2", True), ("2", True), ("5", False), ("2", True)):
        monkeypatch.setenv("HESSE_TEST_FACTOR", factor)
        if is_right:
            torch.testing.assert_close(H.at(THREE + 0) @ THREE, 12 * THREE**2)
        else:
            with pytest.raises(hesse.CaptureError, match="differs from the tape"):
                H.at(THREE + 0)


class Energies:
    """A class that no object is made of: functions, and what they read."""

    power = 3

    @staticmethod
    def cubic(x: Tensor) -> Tensor:
        return scale * x**3

    @classmethod
    def raised(cls, x: Tensor) -> Tensor:
        return 2 * x**cls.power


class Cubic(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent * 6 * ctx.saved_tensors[0] ** 2


class Weighing:
    def __matmul__(self, x: Tensor) -> Tensor:
        return scale * (x**3).sum()

    def __getattr__(self, name: str) -> float:
        return scale


class Below(Weighing):
    def __matmul__(self, x: Tensor) -> Tensor:
        return super().__matmul__(x)


class Made:
    def __init__(self) -> None:
        self.factor = scale


class Described:
    class Scale:
        def __get__(self, held: Any, owner: Any) -> float:
            return scale

    factor = Scale()


def _reading(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    """A function that is 2·Σx³, and what makes it 5·Σx³ (of the backward of one, 5·Σx³ by its derivatives)."""

    def set_scale() -> None:
        monkeypatch.setitem(globals(), "scale", 5.0)

    def times_five(cotangent: Tensor, x: Tensor) -> Tensor:
        return 15 * cotangent * x**2

    held, below, described = Weighing(), Below(), Described()
    cubic = Cubic.apply
    ways: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], None]]] = {
        "a static function's global": (lambda x: Energies.cubic(x).sum(), set_scale),
        "a static function": (
            lambda x: Energies.cubic(x).sum(),
            lambda: monkeypatch.setattr(Energies, "cubic", staticmethod(lambda x: 5 * x**3)),
        ),
        "an attribute that a class function reads": (
            lambda x: Energies.raised(x).sum() if Energies.power == 3 else 2.5 * Energies.raised(x).sum(),
            lambda: monkeypatch.setattr(Energies, "raised", classmethod(lambda cls, x: 5 * x**cls.power)),
        ),
        "a backward": (
            lambda x: cubic(x).sum(),
            lambda: monkeypatch.setattr(
                Cubic, "backward", staticmethod(lambda ctx, cotangent: times_five(cotangent, *ctx.saved_tensors))
            ),
        ),
        "an operator": (lambda x: held @ x, set_scale),
        "a function of a class above": (lambda x: below @ x, set_scale),
        "a name that no attribute has": (lambda x: held.anything * (x**3).sum(), set_scale),
        "an object that is made": (lambda x: Made().factor * (x**3).sum(), set_scale),
        "a descriptor": (lambda x: described.factor * (x**3).sum(), set_scale),
    }
    return ways[name]


@pytest.mark.parametrize("transform", ["operator", "vhp", "grad"])
@pytest.mark.parametrize(
    "name",
    [
        *("a static function's global", "a static function", "an attribute that a class function reads"),
        *("a backward", "an operator", "a function of a class above", "a name that no attribute has"),
        *("an object that is made", "a descriptor"),
    ],
)
@pytest.mark.one_in(2)
def test_what_is_called_by_a_class_or_by_no_name_is_read_again(
    name: str, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)
    func, change = _reading(monkeypatch, name)
    if transform == "grad":
        gradient = hesse.func.grad(func, engine="compiled", verify=False)
        torch.testing.assert_close(gradient(THREE), 6 * THREE**2)
        change()
        torch.testing.assert_close(gradient(2 * THREE), 60 * THREE**2)
        return
    H, product = programs.hessian(func, THREE, verify=False), hesse.func.vhp(func, engine="compiled", verify=False)
    by_operator = transform == "operator"
    torch.testing.assert_close(H @ THREE if by_operator else product(THREE, THREE), 12 * THREE**2)
    change()
    found = H.at(2 * THREE) @ THREE if by_operator else product(2 * THREE, THREE)
    torch.testing.assert_close(found, 60 * THREE**2)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class OtherPair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class Record:
    x: Tensor
    y: Tensor


@dataclasses.dataclass
class OtherRecord:
    x: Tensor
    y: Tensor


FACTORS: dict[type, float] = {Pair: 1.0, OtherPair: 2.0, Record: 3.0, OtherRecord: 4.0}


def test_inputs_of_another_class_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)

    def func(held: list[Any]) -> Tensor:
        (pair,) = held
        return FACTORS[type(pair)] * getattr(pair, "factor", 1.0) * (pair.x**3 * pair.y).sum()

    product = hesse.func.hvp(func, engine="compiled", verify=False)
    gradient = hesse.func.grad(func, engine="compiled", verify=False)
    H = None
    x, y = THREE, THREE.cos()
    for kind, factor in ((Pair, 1), (OtherPair, 1), (Record, 1), (OtherRecord, 1), (Record, 5), (Record, 6), (Pair, 1)):
        at = kind(x, y)
        if factor != 1:
            at.factor = factor
        v = [kind(x, torch.zeros(3).double())]
        times = FACTORS[kind] * factor
        H = programs.hessian(func, [at], verify=False) if H is None else H.at([at])
        for (found,) in (H @ v, product([at], v)):
            torch.testing.assert_close(found.x, times * 6 * x * y * x)
            torch.testing.assert_close(found.y, times * 3 * x**2 * x)
        torch.testing.assert_close(gradient([at])[0].x, times * 3 * x**2 * y)


def test_other_arguments_of_another_class_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "INDUCTOR", backends.EAGER)
    factors: dict[type, float] = {list: 1.0, tuple: 2.0, dict: 3.0}
    gradient = hesse.func.grad(lambda x, held: factors[type(held)] * (x**3).sum(), engine="compiled", verify=False)
    for held in ([], (), {}, [1], (1,), []):
        torch.testing.assert_close(gradient(THREE, held), factors[type(held)] * 3 * THREE**2)
