"""What a model's evaluations write beside its tensors, wherever it is held: each has its own, the user's stays."""

from __future__ import annotations

import array
import collections
import functools
import io
import itertools
import queue
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from hesse._autograd.preserving import preserved
from hesse._data import private_model
from hesse._data.maps import GradientMap
from hesse._data.models import Objective
from tests.data import references
from tests.data.models import CLASSES, X, seeded

pytestmark = pytest.mark.usefixtures("uncompiled")


class Counting(nn.Module):
    """A network whose output grows with the number of its evaluations."""

    count: Callable[[], float]

    def __init__(self, make: Callable[[nn.Module], Callable[[], float]]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 3)
        self.count = make(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) * self.count()


def of_method(function: Callable[[Any], float], held: Any) -> Callable[[nn.Module], Callable[[], float]]:
    """A count in what a model holds in an attribute."""

    def make(model: nn.Module) -> Callable[[], float]:
        model.held = held()
        return lambda: function(model.held)

    return make


def add_to_array(held: Any) -> float:
    held[0] += 1
    return float(held[0])


def add_to_nested(held: Any) -> float:
    held["inner"][0]["count"] += 1
    return float(held["inner"][0]["count"][0])


def add_to_list(held: Any) -> float:
    held.append(0)
    return float(len(held))


def put(held: Any) -> float:
    held.put(0)
    return float(held.qsize())


def write(held: Any) -> float:
    held.write("x")
    return float(held.tell())


class Pickled:
    """Says how it is copied, which an evaluation does not ask."""

    def __init__(self) -> None:
        self.count = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> Pickled:
        return self

    def add(self) -> float:
        self.count += 1
        return float(self.count)


def in_shared_variable(model: nn.Module) -> Callable[[], float]:
    count = 0.0

    def add() -> nn.Module:
        nonlocal count
        count += 1
        return model

    def read() -> float:
        return count

    model.add, model.read = add, read
    return lambda: (model.add(), model.read())[1]


def in_closure(model: nn.Module) -> Callable[[], float]:
    held: list[int] = []
    return lambda: add_to_list(held)


def in_function(model: nn.Module) -> Callable[[], float]:
    def count() -> float:
        count.calls += 1  # type: ignore[attr-defined]  # as users do
        return count.calls  # type: ignore[attr-defined]  # as users do

    count.calls = 0.0  # type: ignore[attr-defined]  # as users do
    return count


def in_default(model: nn.Module) -> Callable[[], float]:
    def count(held: list[int] = []) -> float:  # noqa: B006  # on purpose
        return add_to_list(held)

    return count


def in_hook(model: nn.Module) -> Callable[[], float]:
    held: list[int] = []
    model.register_forward_pre_hook(lambda module, args: add_to_list(held) and None)
    return lambda: 1.0 + len(held)


def of_weak_reference(model: nn.Module) -> Callable[[], float]:
    model.kept = Pickled()
    model.weak = weakref.WeakValueDictionary(kept=model.kept)
    return lambda: model.weak["kept"].add()


def of_sobol(model: nn.Module) -> Callable[[], float]:
    model.engine = torch.quasirandom.SobolEngine(1)
    return lambda: float(model.engine.draw(2)[1]) + model.engine.num_generated


KINDS = {
    "an array": of_method(add_to_array, lambda: np.zeros(3)),
    "an array of records": of_method(add_to_nested, lambda: {"inner": [np.zeros(2, dtype=[("count", float)])[:1]]}),
    "bytes": of_method(add_to_array, lambda: bytearray(2)),
    "an array of Python's": of_method(add_to_array, lambda: array.array("d", [0.0])),
    "a UserList": of_method(add_to_list, collections.UserList),
    "a queue": of_method(put, queue.Queue),
    "a text": of_method(write, io.StringIO),
    "an iterator": of_method(lambda held: next(held), lambda: iter([1.0, 2.0, 3.0])),
    "an object with its own copies": of_method(Pickled.add, Pickled),
    "a bound method": lambda model: Pickled().add,
    "a partial": lambda model: functools.partial(add_to_list, []),
    "an append": lambda model: functools.partial(lambda append, held: append(0) or float(len(held)), *_append()),
    "a variable of two functions": in_shared_variable,
    "a closure": in_closure,
    "a function": in_function,
    "a default": in_default,
    "a hook": in_hook,
    "a weak reference": of_weak_reference,
    "a Sobol sequence": of_sobol,
}


def _append() -> tuple[Any, list[int]]:
    held: list[int] = []
    return held.append, held


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.one_in(4)
def test_each_evaluation_counts_from_where_the_user_is(name: str) -> None:
    make = KINDS[name]
    expected = references.of_its_own(seeded(Counting, make), lambda model: F.cross_entropy(model(X), CLASSES))
    model = seeded(Counting, make)
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    torch.testing.assert_close(H.to_dense(), expected)
    torch.testing.assert_close(H.at().to_dense(), expected)
    torch.testing.assert_close(model(X), seeded(Counting, make)(X), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["an array", "a variable of two functions", "a closure"])
def test_what_a_function_counts_in_a_model_is_put_back(name: str) -> None:
    model = seeded(Counting, KINDS[name])
    with preserved(model, X):
        first = model(X)
        assert not torch.equal(model(X), first)
    assert torch.equal(model(X), first)


def test_what_another_thread_does_to_a_model_meanwhile_stays() -> None:
    model = seeded(Counting, in_closure)
    map_ = GradientMap(Objective("LossHessian", model, F.cross_entropy, None), (X, CLASSES))
    with preserved(map_, tuple(model.parameters())):
        with torch.no_grad():
            model.first.weight.fill_(2)
        model(X)
    assert torch.equal(model.first.weight, torch.full((3, 4), 2.0, dtype=torch.float64))
    assert model.count() == 2


def in_iterator(model: nn.Module) -> Callable[[], float]:
    model.numbers = (float(number) for number in itertools.count(1))
    return lambda: next(model.numbers)


def in_class(model: nn.Module) -> Callable[[], float]:
    class Calls:
        number = 0.0

    def count() -> float:
        calls.number += 1
        return calls.number

    model.calls = calls = Calls
    return count


CALLS = {"number": 0.0}


def in_global(model: nn.Module) -> Callable[[], float]:
    def count() -> float:
        CALLS["number"] += 1
        return CALLS["number"]

    return count


@pytest.mark.parametrize(
    ("make", "name"),
    [(in_iterator, ""), (in_class, ", in 'calls.number'"), (in_global, ", in 'count.CALLS.number'")],
)
def test_what_a_copy_shares_is_told_of_where_outputs_depend_on_it(make: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"has other outputs each time it is evaluated.* shares it{name}:"):
        hesse.LossHessian(seeded(Counting, make), F.cross_entropy, (X, CLASSES))


class Looked(nn.Linear):
    """A layer whose factor is found by its identity, and that is known to its class."""

    weak: ClassVar[weakref.WeakKeyDictionary[nn.Module, float]] = weakref.WeakKeyDictionary()
    plain: ClassVar[dict[Any, float]] = {}
    by_id: ClassVar[dict[int, float]] = {}
    registered: ClassVar[weakref.WeakSet[nn.Module]] = weakref.WeakSet()

    def __init__(self, look: Callable[[nn.Module], float]) -> None:
        super().__init__(4, 3)
        self.look = look
        self.registered.add(self)
        self.by_id[id(self)] = self.weak[self] = self.plain[self] = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.look(self)


class Itself(Looked):
    def __init__(self) -> None:
        super().__init__(lambda layer: 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.weak[self]


class OfObjects:
    """A descriptor that keeps a value for each object."""

    def __init__(self) -> None:
        self.values: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()

    def __get__(self, owner: Any, kind: Any = None) -> float:
        return self.values.get(owner, 1.0)

    def __set__(self, owner: Any, value: float) -> None:
        self.values[owner] = value


class Described(nn.Linear):
    factor = OfObjects()

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.factor = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


def in_another_module() -> nn.Module:
    def look(layer: nn.Module) -> float:
        return float(layers_of_tests.factors.get(layer, 1.0))

    layer = Looked(look)
    layers_of_tests.factors[layer] = 3.0
    return layer


layers_of_tests: Any = types.ModuleType("layers_of_tests")
layers_of_tests.factors = weakref.WeakKeyDictionary()
LOOKED = {
    "a weak dict of its class": (lambda: Looked(lambda layer: Looked.weak.get(layer, 1.0)), "Looked.weak"),
    "a dict of its class": (lambda: Looked(lambda layer: Looked.plain.get(layer, 1.0)), "Looked.plain"),
    "a dict by id": (lambda: Looked(lambda layer: Looked.by_id.get(id(layer), 1.0)), "Looked.by_id"),
    "an attribute": (Itself, "weak"),
    "a descriptor": (Described, "factor.values"),
    "another module": (in_another_module, "layers_of_tests.factors"),
}


@pytest.mark.parametrize("name", LOOKED)
def test_state_that_a_model_finds_by_its_identity_where_copies_do_not_is_refused(name: str) -> None:
    make, place = LOOKED[name]
    for model in (seeded(make), nn.Sequential(seeded(make))):
        with pytest.raises(RuntimeError, match=f"finds state by its own identity in '.*{place}'"):
            hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))


def test_what_holds_a_model_and_is_not_asked_in_its_forward_does_not_matter() -> None:
    model = seeded(lambda: Looked(lambda layer: 3.0))
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    torch.testing.assert_close(H.value, F.cross_entropy(model(X), CLASSES).detach())


def test_losses_are_told_of_as_well() -> None:
    model = seeded(nn.Linear, 4, 3)
    hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    count = in_global(model)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="has other outputs each time"):
            hesse.LossHessian(model, lambda output, target: F.cross_entropy(output, target) * count(), (X, CLASSES))
        # Its identity may be the next one's.
        hesse.LossHessian(model, lambda output, target: F.cross_entropy(output, target), (X, CLASSES))


def test_numbers_of_pythons_own_generator_may_be_drawn() -> None:
    model = seeded(Counting, lambda model: random.random)
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    value = H.value
    random.seed(1)
    torch.testing.assert_close(H.value, value, rtol=0, atol=0)


def test_where_outputs_change_pythons_and_numpys_generators_do_not() -> None:
    count, draw, state = in_global(nn.Module()), np.random.rand, np.random.get_state  # the global one
    model = seeded(Counting, lambda model: lambda: count() + random.random() + draw())
    before = random.getstate(), state()[1:3]
    with pytest.raises(RuntimeError, match="has other outputs each time"):
        hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    assert random.getstate() == before[0]
    np.testing.assert_equal(state()[1:3], before[1])


class Handle(nn.Module):
    """Takes its hook away in its first evaluation, as lazy modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.handle = self.linear.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.handle.remove()
        return y


def test_a_hook_that_a_model_removes_stays_the_users() -> None:
    model = seeded(Handle)
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    expected = references.of_its_own(seeded(Handle), lambda model: F.cross_entropy(model(X), CLASSES))
    torch.testing.assert_close(H.at().to_dense(), expected)
    assert len(model.linear._forward_hooks) == 1


class Inner(nn.Module):
    """Clears gradients by an optimizer of its own, and thaws a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.frozen = nn.Linear(4, 3), nn.Linear(3, 3).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.linear.parameters(), lr=0.1)

    def forward(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        self.frozen.weight.grad = torch.ones_like(self.frozen.weight)
        self.frozen.weight.requires_grad_()
        return self.frozen(torch.tanh(self.linear(x)))


def test_gradients_and_flags_of_parameters_stay_the_users() -> None:
    model = seeded(Inner)
    grad = model.linear.weight.grad = torch.ones_like(model.linear.weight)
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    assert model.linear.weight.grad is grad
    assert model.frozen.weight.grad is None
    assert not model.frozen.weight.requires_grad
    frozen = seeded(Inner).frozen

    def plain(linear: nn.Module) -> Tensor:
        return F.cross_entropy(frozen(torch.tanh(linear(X))), CLASSES)

    torch.testing.assert_close(H.to_dense(), references.of_its_own(seeded(Inner).linear, plain))


class Teacher(nn.Module):
    """A frozen copy that follows the parameters in each evaluation, in place or by other memory."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        for slow, fast in zip(self.teacher.parameters(), self.linear.parameters(), strict=True):
            if self.in_place:
                slow.lerp_(fast.detach(), 0.5)
            else:
                slow.data = slow.data * 0.5 + fast.data * 0.5
        return torch.tanh(self.linear(x)) * self.teacher(x)


@pytest.mark.parametrize("size", [1 << 18, 0], ids=["copied", "put back"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_frozen_copy_follows_the_parameters_from_where_the_users_is(
    in_place: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_model, "_COPIED", size)
    model = seeded(Teacher, in_place)
    before = {key: (value.clone(), value._version) for key, value in model.state_dict(keep_vars=True).items()}
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    expected = references.of_its_own(seeded(Teacher, in_place), lambda model: F.cross_entropy(model(X), CLASSES))
    torch.testing.assert_close(H.to_dense(), expected)
    torch.testing.assert_close(H.at().to_dense(), expected)
    for key, value in model.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[key][0])
        assert value._version == before[key][1]


class Clipping(nn.Module):
    """Writes into a parameter of another layer than its own, and into more than samples show."""

    def __init__(self, by_data: bool) -> None:
        super().__init__()
        self.linear, self.by_data = nn.Linear(4, 1500), by_data

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            (self.linear.weight.data if self.by_data else self.linear.weight).clamp_(-0.1, 0.1)
        return self.linear(x)[:, :3]


@pytest.fixture(params=[False, True], ids=["alone", "beside a tool's thread"])
def beside(request: pytest.FixtureRequest) -> Iterator[None]:
    """With a thread as notebooks, progress bars and loaders have it."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, daemon=True)
    if request.param:
        thread.start()
    yield
    ended.set()


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("by_data", [False, True])
def test_what_is_written_into_parameters_is_refused_and_put_back(by_data: bool) -> None:
    model = seeded(Clipping, by_data)
    before = model.linear.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"LossHessian writes into its parameter 'linear\.weight'"):
        hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    assert torch.equal(model.linear.weight, before)


class Averaging(nn.Module):
    """A loss with an average of its own in a buffer, and a count in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.ones((), dtype=torch.float64))
        self.calls = 0

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = F.cross_entropy(prediction, target)
        self.average.mul_(0.5).add_(0.5 * loss.detach())
        return loss * self.average


@pytest.mark.parametrize("engine", ["tape", "compiled"])
@pytest.mark.parametrize("operator", [hesse.GaussNewton, hesse.EmpiricalFisher])
def test_what_a_loss_writes_into_itself_stays_the_users(operator: type, engine: str) -> None:
    loss, model = Averaging(), nn.Linear(4, 3).double()
    H = operator(model, loss, (X, CLASSES), reduction="mean", weight=lambda batch: 1, engine=engine)
    product = H @ torch.ones(15, dtype=torch.float64)
    assert (loss.average.item(), loss.average._version, loss.calls) == (1.0, 0, 0)
    value = F.cross_entropy(model(X), CLASSES).detach()
    torch.testing.assert_close(H.value, value * (1 + value) / 2)
    torch.testing.assert_close(H.at() @ torch.ones(15, dtype=torch.float64), product)
