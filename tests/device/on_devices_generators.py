"""Random generators of all devices: operators draw once, and the user's generators stay as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hesse
from tests.device.entries import CPU, numbers
from tests.linearize import programs


class OverTwo(nn.Module):
    """A model whose halves are on two devices, each with a dropout."""

    def __init__(self, first: str = "cuda:0", second: str = "cuda:1") -> None:
        super().__init__()
        self.first, self.second = first, second
        self.a, self.b = nn.Linear(4, 8, device=CPU).to(first), nn.Linear(8, 3, device=CPU).to(second)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(torch.tanh(self.a(x.to(self.first))))
        out: Tensor = self.b(self.drop(hidden.to(self.second)))
        return out


def _loss(prediction: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(prediction, target.to(prediction.device))


@pytest.fixture
def states() -> Callable[[], list[Tensor]]:
    """What reads the states of all generators."""
    generators = [torch.default_generator, *torch.cuda.default_generators]
    assert len(generators) == 3
    return lambda: [generator.get_state() for generator in generators]


def _same(now: list[Tensor], then: list[Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(now, then, strict=True)]


DATA = [(numbers(6, 4, seed=seed), torch.arange(6, device=CPU) % 3) for seed in (1, 2, 3)]


@pytest.mark.parametrize("devices", [("cuda:0", "cuda:1"), ("cuda:1", "cuda:1"), ("cpu", "cuda:1")])
def test_products_over_data_draw_the_same_and_leave_generators(
    devices: tuple[str, str], states: Callable[[], list[Tensor]]
) -> None:
    model, before = OverTwo(*devices), states()
    # A budget of so few bytes has batches evaluated anew in each product.
    H = hesse.LossHessian(model, _loss, DATA, memory="9KB", engine="tape")
    v = numbers(H.shape[1], seed=9).to(H.device)
    first = H @ v
    torch.rand(3, device="cuda:0")
    torch.rand(3, device="cuda:1")
    moved = states()
    assert torch.equal(first, H @ v)
    assert all(_same(states(), moved))
    assert _same(moved, before)[1:] == [False, False]


def test_generators_of_devices_stay_where_an_operator_is_made(states: Callable[[], list[Tensor]]) -> None:
    before = states()
    hesse.LossHessian(OverTwo(), _loss, DATA, engine="tape").value  # noqa: B018  # the property evaluates
    # The CPU's is advanced by one number, so that the next operator draws anew.
    assert _same(states(), before) == [False, True, True]


def _dropped(x: Tensor) -> Tensor:
    return nn.functional.dropout(x, 0.5) * x


def test_a_check_of_a_function_that_draws_on_a_device_says_so_and_leaves_its_generator(
    states: Callable[[], list[Tensor]],
) -> None:
    before = states()
    assert hesse.check(lambda x: _dropped(x).sum(), numbers(5).to("cuda:1"), rng=0).draws
    assert _same(states(), before) == [True, True, True]


def test_products_of_a_plain_function_draw_nothing_on_its_device(states: Callable[[], list[Tensor]]) -> None:
    x = numbers(5).to("cuda:1")
    before = states()
    G = hesse.GaussNewton(_dropped, x, engine="tape")
    first = G @ torch.ones_like(x)
    after = states()
    # The one evaluation drew.
    assert _same(after, before) == [True, True, False]
    assert torch.equal(G @ torch.ones_like(x), first)
    assert _same(states(), after) == [True, True, True]


def test_a_program_of_a_plain_function_draws_what_the_tape_does(states: Callable[[], list[Tensor]]) -> None:
    x, v = numbers(5).to("cuda:1"), numbers(5, seed=1).to("cuda:1")
    torch.cuda.default_generators[1].manual_seed(3)
    tape = hesse.Hessian(lambda x: _dropped(x).square().sum(), x, engine="tape") @ v
    torch.cuda.default_generators[1].manual_seed(3)
    torch.testing.assert_close(programs.hessian(lambda x: _dropped(x).square().sum(), x) @ v, tape)
