"""``hesse.func.grad`` and ``value_and_grad``: gradients to train on, against plain double backwards in float64."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse._linearize import tape
from hesse._linearize.compiled import PROGRAMS
from hesse._linearize.compiled_linearization import CompiledLinearization
from hesse._linearize.program.backends import EAGER
from tests.linearize import programs

DOUBLE = torch.float64
ENGINES = ("tape", "compiled")


@pytest.fixture(autouse=True)
def _by_captured_programs() -> Iterator[None]:
    with programs.running(EAGER):
        yield


def potential(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).to(DOUBLE)


def positions(count: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def by_autograd(net: nn.Module, x: Tensor, wanted: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """The loss of energy and forces, and its derivatives by the parameters, as PyTorch computes them."""
    x = x.detach().requires_grad_()
    energy = net(x).sum()
    (slope,) = torch.autograd.grad(energy, x, create_graph=True)
    loss = energy**2 + ((slope + wanted) ** 2).mean()
    return loss.detach(), list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_of_energy_and_forces_is_differentiated_by_the_parameters(engine: Any) -> None:
    net = potential()
    compute = hesse.func.value_and_grad(lambda x: net(x).sum(), engine=engine)
    for seed in range(3):
        x, wanted = positions(seed=seed), positions(seed=10 + seed)
        energy, slope = compute(x)
        loss = energy**2 + ((slope + wanted) ** 2).mean()
        found = torch.autograd.grad(loss, list(net.parameters()))
        expected_loss, expected = by_autograd(net, x, wanted)
        torch.testing.assert_close(loss.detach(), expected_loss)
        torch.testing.assert_close(list(found), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_training_on_forces_takes_the_same_way(engine: Any) -> None:
    ours, plain = potential(), potential()
    compute = hesse.func.grad(lambda x: ours(x).sum(), engine=engine, verify=False)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2) for net in (ours, plain)]
    for step in range(50):
        x, wanted = positions(seed=step), positions(seed=100 + step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = ((compute(x) + wanted) ** 2).mean()
        loss.backward()
        leaf = x.requires_grad_()
        (slope,) = torch.autograd.grad(plain(leaf).sum(), leaf, create_graph=True)
        ((slope + wanted) ** 2).mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(plain.parameters()))


@pytest.mark.parametrize("engine", ENGINES)
def test_other_arguments_and_the_point_itself_are_differentiated_by_where_they_require_gradients(engine: Any) -> None:
    def func(p: dict[str, Tensor], x: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        return scale * (p["w"] * torch.sin(x)).sum() + (p["b"] ** 2 * x.prod()), x.detach() * 2

    x = positions(1)[0].requires_grad_()
    p = {"w": positions(1, seed=2)[0].requires_grad_(), "b": torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)}
    found, aux = hesse.func.grad(func, argnums=1, has_aux=True, engine=engine)(p, x, scale=3.0)
    torch.testing.assert_close(aux, 2 * x.detach())
    others = torch.stack([x[1] * x[2], x[0] * x[2], x[0] * x[1]])
    closed = 3.0 * p["w"] * torch.cos(x) + p["b"] ** 2 * others
    torch.testing.assert_close(found.detach(), closed.detach())
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    by = [x, p["w"], p["b"]]
    torch.testing.assert_close(torch.autograd.grad(found @ weights, by), torch.autograd.grad(closed @ weights, by))


@pytest.mark.parametrize("engine", ENGINES)
def test_several_arguments_have_a_gradient_each(engine: Any) -> None:
    a, b = positions(2), positions(2, seed=5)
    value, (by_a, by_b) = hesse.func.value_and_grad(lambda a, b: (a**2 * b).sum(), (0, 1), engine=engine)(a, b)
    torch.testing.assert_close((value, by_a, by_b), ((a**2 * b).sum(), 2 * a * b, a**2))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_parameter_that_nothing_uses_has_no_gradient(engine: Any) -> None:
    net = potential()
    net.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=DOUBLE)))
    (hesse.func.grad(lambda x: net(x).sum(), engine=engine)(positions()) ** 2).sum().backward()
    assert net.unused.grad is None
    assert net[0].weight.grad is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_that_a_loss_of_the_gradient_alone_does_not_use_have_no_gradient(engine: Any) -> None:
    net, x = potential(), positions()
    slope = hesse.func.value_and_grad(lambda x: net(x).sum(), engine=engine)(x)[1]
    parameters = list(net.parameters())
    found = torch.autograd.grad((slope**2).sum(), parameters, allow_unused=True)
    leaf = x.requires_grad_()
    (plain,) = torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)
    expected = torch.autograd.grad((plain**2).sum(), parameters, allow_unused=True)
    assert [entry is None for entry in found] == [entry is None for entry in expected]
    assert found[-1] is None
    torch.testing.assert_close(found[:-1], expected[:-1])


@pytest.mark.exhaustive
def test_many_layouts_have_a_program_each_and_later_ones_run_without() -> None:
    net = potential()
    compute = hesse.func.grad(lambda x: net(x).sum(), engine="compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in range(1, PROGRAMS + 1):
            compute(positions(count))
    with pytest.warns(UserWarning, match=f"compiled for {PROGRAMS} layouts") as told:
        late = compute(positions(20)), compute(positions(21))
    assert len(told) == 1
    x = positions(20).requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    torch.testing.assert_close(late[0].detach(), slope.detach())
    found, right = [torch.autograd.grad((entry**2).sum(), net[0].weight) for entry in (late[0], slope)]
    torch.testing.assert_close(found, right)


def test_the_backward_notices_what_has_changed_since() -> None:
    net = potential()
    x = positions()
    loss = (hesse.func.grad(lambda x: net(x).sum(), engine="compiled")(x) ** 2).sum()
    with torch.no_grad():
        net[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_kept_is_freed_by_the_backward_unless_the_graph_is_retained() -> None:
    net = potential()
    x = positions(1000)
    compute = hesse.func.grad(lambda x: net(x).sum(), engine="compiled", verify=False)
    compute(x)
    given = {entry.data_ptr() for entry in (x, *net.parameters())}
    released = CompiledLinearization.release
    held: list[weakref.ref[Tensor]] = []

    def release(linearization: CompiledLinearization) -> list[Tensor]:
        kept = released(linearization)
        held.extend(weakref.ref(tensor) for tensor in kept if tensor.data_ptr() not in given)
        return kept

    with mock.patch.object(CompiledLinearization, "release", release):
        loss = (compute(x) ** 2).sum()
    assert held
    first = torch.autograd.grad(loss, net[0].weight, retain_graph=True)
    assert any(entry() is not None for entry in held)
    torch.testing.assert_close(torch.autograd.grad(loss, net[0].weight), first)
    assert all(entry() is None for entry in held)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_third_derivative_is_that_of_the_tape_or_one_sentence() -> None:
    x = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    third = {}
    for engine in ENGINES:
        slope = hesse.func.grad(lambda x: (x**4).sum(), engine=engine)(x)
        (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        torch.testing.assert_close(second.detach(), 12 * x.detach() ** 2)
        third[engine] = second.sum()
    torch.testing.assert_close(torch.autograd.grad(third["tape"], x)[0], 24 * x.detach())
    with pytest.raises(RuntimeError, match='grad with engine="compiled" returns can be differentiated once'):
        third["compiled"].backward()


def test_by_the_tape_it_composes_with_transforms() -> None:
    each = torch.vmap(hesse.func.grad(lambda x: (x**3).sum()))(positions())
    torch.testing.assert_close(each, 3 * positions() ** 2)
    jacobian = torch.func.jacrev(hesse.func.grad(lambda x: (x**3).sum()))(positions()[0])
    torch.testing.assert_close(jacobian, torch.diag(6 * positions()[0]))


def test_inside_a_transform_a_program_is_refused_in_one_sentence() -> None:
    compute = hesse.func.grad(lambda x: (x**3).sum(), engine="compiled")
    with pytest.raises(RuntimeError, match=r'grad with engine="compiled" cannot run inside a torch\.func transform'):
        torch.vmap(compute)(positions())


def test_a_function_without_a_program_is_refused_by_name() -> None:
    def decides(x: Tensor) -> Tensor:
        return (x**3).sum() if x.sum() > 0 else (x**2).sum()

    with pytest.raises(hesse.CaptureError, match='grad with engine="compiled" cannot take this function'):
        hesse.func.grad(decides, engine="compiled")(positions())


def test_a_wrong_program_is_found() -> None:
    with programs.running(programs.wrong()), pytest.raises(hesse.CaptureError, match="differs from the tape's"):
        hesse.func.grad(lambda x: (x**3).sum(), engine="compiled")(positions())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"engine": "auto"}, 'engine given to grad should be "tape" or "compiled"'),
        ({"verify": 3}, 'verify given to grad should be True, False or "always" but is 3'),
        ({"func": None}, "func given to grad should be callable"),
        ({"func": nn.MSELoss}, "func given to grad should be a function"),
        ({"argnums": 2}, "argnums given to grad names argument 2"),
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        hesse.func.grad(**{"func": lambda x: (x**3).sum(), **options})(positions())


def test_a_function_of_other_things_is_told() -> None:
    net = potential()
    with pytest.raises(RuntimeError, match="grad was given a function whose value"):
        hesse.func.grad(lambda x: net(positions()).sum())(positions())


@pytest.mark.parametrize("engine", ENGINES)
def test_buffers_change_and_dropout_draws_as_in_one_plain_evaluation(engine: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 1)).to(DOUBLE)
    twin = copy.deepcopy(net)
    compute = hesse.func.grad(lambda x: net(x).sum(), engine=engine, verify=False)
    for step in range(3):
        torch.manual_seed(step)
        slope = compute(positions(seed=step))
        torch.manual_seed(step)
        x = positions(seed=step).requires_grad_()
        (expected,) = torch.autograd.grad(twin(x).sum(), x, create_graph=True)
        torch.testing.assert_close(slope.detach(), expected.detach())
        found, right = [
            torch.autograd.grad((entry**2).sum(), list(model.parameters()), allow_unused=True)
            for entry, model in ((slope, net), (expected, twin))
        ]
        torch.testing.assert_close(found[:-1], right[:-1])
    torch.testing.assert_close(dict(net.named_buffers()), dict(twin.named_buffers()))


def test_a_program_that_is_trusted_spares_the_function() -> None:
    compute = hesse.func.grad(lambda x: (x**3).sum(), engine="compiled", verify=False)
    with mock.patch.object(tape, "linearize", wraps=tape.linearize) as evaluated:
        for seed in range(6):
            torch.testing.assert_close(compute(positions(seed=seed)), 3 * positions(seed=seed) ** 2)
    assert evaluated.call_count == 1


def test_without_gradients_nothing_is_followed() -> None:
    net = potential()
    for engine in ENGINES:
        with torch.no_grad():
            assert not hesse.func.grad(lambda x: net(x).sum(), engine=engine)(positions()).requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_can_be_changed_in_place(engine: Any) -> None:
    net = potential()
    compute = hesse.func.grad(lambda x: net(x).sum(), engine=engine)
    forces = compute(positions()).neg_()
    x = positions().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    found, right = [torch.autograd.grad((entry**3).sum(), net[0].weight) for entry in (forces, -slope)]
    torch.testing.assert_close(found, right)


def test_a_hessian_of_what_a_compiled_gradient_is_part_of_is_refused_in_one_sentence() -> None:
    def loss(scale: Tensor) -> Tensor:
        slope = hesse.func.grad(lambda x: torch.sin(x * scale).sum(), engine="compiled")(positions())
        return (slope**2).sum()

    H = hesse.Hessian(loss, torch.tensor(0.7, dtype=DOUBLE))
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        H @ torch.ones(1, dtype=DOUBLE)
