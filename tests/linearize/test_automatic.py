"""``engine="auto"``: when it is decided and by what, and what becomes of products."""

from __future__ import annotations

import collections
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize import engines
from hesse._linearize.engines import FEW
from hesse._linearize.program.backends import EAGER, Backend
from hesse._linearize.program.stand_ins import is_stand_in

from . import programs
from .own_clock import OwnClock

X = torch.linspace(-1, 1, 6, dtype=torch.float64)
V = torch.linspace(0, 2, 6, dtype=torch.float64)
PAYS, COUNT = 100, 90
"""So many products pay for compiling, which takes ten seconds; and after so many, here, an operator decides itself."""


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum() + x.prod()


def branching(x: Tensor) -> Tensor:
    return quartic(x) if x.sum() > -100 else x.sum()


def dropped(x: Tensor) -> Tensor:
    return ((torch.nn.functional.dropout(x, 0.5) + 1) ** 4).sum()


DENSE = torch.autograd.functional.hessian(quartic, X)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnClock]:
    """A product takes a second by the tape and half of one by a program, which takes ten to make: by our own clock."""
    monkeypatch.setattr(engines, "COUNT", COUNT)
    monkeypatch.setattr(engines, "FIXED_PRICE", 10.0)
    monkeypatch.setattr(engines, "NODE_PRICE", 0.0)
    # Programs are not tried where other processes leave less than a gibibyte.
    monkeypatch.setattr("hesse._base.memory.available", lambda device: 2**36)
    with programs.running(EAGER):
        yield OwnClock(monkeypatch)


def found(H: Any) -> tuple[str, int]:
    """The engine, and how many programs were made."""
    explained = H.explain()
    return explained.engine, explained.programs


def test_a_few_products_stay_with_the_tape_and_look_at_no_clock(clock: OwnClock) -> None:
    H = hesse.Hessian(quartic, X)
    for _ in range(COUNT):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert found(H) == ("tape", 0)
    assert H.explain().engine_reason == "few products so far"
    assert clock.laps == 0


def test_what_is_expected_decides_at_the_first_product(clock: OwnClock) -> None:
    # Whether on stand-ins; a list would be a value that the function reads.
    runs: collections.deque[bool] = collections.deque()

    def counted(x: Tensor) -> Tensor:
        runs.append(is_stand_in(x))
        return quartic(x)

    H = hesse.Hessian(counted, X, expect=PAYS)
    assert (found(H), clock.laps) == (("tape", 0), 0)
    torch.testing.assert_close(H @ V, DENSE @ V)
    assert found(H) == ("compiled", 1)
    assert "1e+03 ms by the tape engine, 500 ms by the compiled engine; measured once" in H.explain().engine_reason
    # On numbers once, when the operator was made; what it notes on stand-ins is put back.
    assert list(runs) == [False]
    torch.testing.assert_close(H.to_dense(), DENSE)
    laps = clock.laps
    for factor in (2.0, 3.0):
        H = H.at(factor * X)
        torch.testing.assert_close(H @ V, torch.autograd.functional.hessian(quartic, factor * X) @ V)
        assert (found(H), clock.laps) == (("compiled", 1), laps)


def test_fewer_products_than_pay_are_measured_once_and_leave_the_tape(clock: OwnClock) -> None:
    H = hesse.Hessian(quartic, X, expect=PAYS - 1)
    for _ in range(5):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert (found(H), clock.laps) == (("tape", 0), 2)
    assert "99 products are expected, too few to pay for 10 s of compiling" in H.explain().engine_reason


def test_very_few_are_not_even_measured(clock: OwnClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "FIXED_PRICE", 0.0)
    few, enough = (hesse.Hessian(quartic, X, expect=expect) for expect in (FEW - 1, FEW))
    few @ V
    assert (found(few), clock.laps) == (("tape", 0), 0)
    enough @ V
    assert found(enough) == ("compiled", 1)


def test_a_larger_graph_is_expected_to_take_longer_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "FIXED_PRICE", 0.0)
    monkeypatch.setattr(engines, "NODE_PRICE", 0.1)

    def chain(x: Tensor, steps: int) -> Tensor:
        return functools.reduce(lambda x, _: x.sin(), range(steps), x).sum()

    short, long = (hesse.Hessian(functools.partial(chain, steps=n), X, expect=PAYS) for n in (2, 100))
    short @ V, long @ V
    assert (found(short)[0], found(long)[0]) == ("compiled", "tape")


def test_a_question_decides_at_its_start_by_the_products_made_and_those_it_expects(clock: OwnClock) -> None:
    H = hesse.Hessian(quartic, torch.linspace(-1, 1, 60, dtype=torch.float64))

    def ask(num_probes: int) -> tuple[str, int]:
        hesse.spectral_density(H, num_probes=num_probes, num_steps=5, rng=0)
        return H.explain().engine, clock.laps

    assert ask(4) == ("tape", 0)
    # With the 20 products made already, 60 are expected: worth a measurement, and no more.
    assert ask(8) == ("tape", 2)
    assert "60 products are expected" in H.explain().engine_reason
    assert ask(8)[0] == "compiled"


def test_an_expectation_decides_at_once() -> None:
    H = hesse.Hessian(quartic, X)
    H.expect(PAYS)
    assert found(H) == ("compiled", 1)


WAYS: dict[str, Callable[[Any, int], Any]] = {
    "one by one": lambda H, count: [H @ V for _ in range(count)],
    "as columns": lambda H, count: H @ V.repeat(count, 1).T,
    "structured": lambda H, count: [H.multiply_leaves([V]) for _ in range(count)],
    "by SciPy": lambda H, count: [H.to_scipy() @ V.numpy() for _ in range(count)],
    "of a block": lambda H, count: [H.block(()) @ V for _ in range(count)],
    "as rows": lambda H, count: H.rows([0] * count),
}


@pytest.mark.parametrize("multiply", WAYS.values(), ids=WAYS.keys())
@pytest.mark.one_in(4)
def test_many_products_decide_once_however_and_wherever_they_are_made(
    multiply: Callable[[Any, int], Any], clock: OwnClock
) -> None:
    H = hesse.Hessian(quartic, X, batching="loop")
    multiply(H, COUNT - 1)
    H = H.at(X)
    multiply(H, 1)
    assert (found(H), clock.laps) == (("tape", 0), 0)
    multiply(H, 1)
    assert found(H) == ("compiled", 1)
    torch.testing.assert_close(H @ V, DENSE @ V)


@pytest.mark.parametrize(("price", "engine"), [(COUNT, "compiled"), (COUNT + 2, "tape")])
def test_ten_times_the_products_made_are_expected_then_and_nothing_is_decided_later(
    price: float, engine: str, clock: OwnClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FIXED_PRICE", price)
    H = hesse.Hessian(quartic, X)
    WAYS["one by one"](H, COUNT + 1)
    laps = clock.laps
    WAYS["one by one"](H, 3 * COUNT)
    assert (H.explain().engine, clock.laps) == (engine, laps)


@pytest.mark.parametrize("seconds", [2.0, 0.96])
def test_a_program_that_is_not_faster_is_not_taken_and_not_tried_again(seconds: float, clock: OwnClock) -> None:
    clock.program = seconds
    H = hesse.Hessian(quartic, X, expect=PAYS)
    torch.testing.assert_close(H @ V, DENSE @ V)
    assert found(H) == ("tape", 1)
    assert "ms by the compiled engine" in H.explain().engine_reason
    clock.program, laps = 0.1, clock.laps
    moved = H.at(2 * X)
    moved.expect(10**6)
    WAYS["one by one"](moved, COUNT + 1)
    assert (found(moved), clock.laps) == (("tape", 1), laps)


def test_random_numbers_are_drawn_once() -> None:
    torch.manual_seed(3)
    mask = torch.nn.functional.dropout(torch.ones_like(X), 0.5)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    H = hesse.Hessian(dropped, X, expect=PAYS)
    for _ in range(3):
        torch.testing.assert_close(H @ V, 12 * mask**2 * (X * mask + 1) ** 2 * V)
    assert found(H) == ("compiled", 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_function_that_changes_tensors_in_place_stays_with_the_tape_aloud() -> None:
    count = torch.zeros((), dtype=torch.float64)

    def counts(x: Tensor) -> Tensor:
        count.add_(1)
        return quartic(x)

    H = hesse.Hessian(counts, X, expect=PAYS)
    with pytest.warns(UserWarning, match="goes on with the tape: it changes what it reads"):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert float(count) == 1
    assert H.explain().engine == "tape"


ASKED: dict[str, Callable[[Any], Any]] = {
    "a product": lambda H: H @ V,
    "a matrix": lambda H: H.to_dense(),
    "an expectation": lambda H: H.expect(PAYS),
    "a question": lambda H: hesse.spectral_density(H, num_probes=2, num_steps=2, rng=0),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
def test_a_function_without_a_program_warns_once_at_the_users_line_and_says_why(ask: Callable[[Any], Any]) -> None:
    H = hesse.Hessian(branching, X, expect=PAYS)
    with pytest.warns(UserWarning, match=r'engine="auto" goes on with the tape: aten.* needs the values') as caught:
        ask(H)
    assert [warning.filename for warning in caught] == [__file__]
    assert caught[0].lineno == ask.__code__.co_firstlineno
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(H @ V, DENSE @ V)
        ask(H.at(X))
    assert found(H) == ("tape", 0)
    assert "no program can be had" in str(H.explain())
    assert "needs the values of a tensor" in str(H.explain())


def exhausted(*arguments: Any) -> Any:
    raise torch.OutOfMemoryError("no room")


BROKEN = {
    "wrong at once": (programs.wrong(), "differs from the tape's"),
    "a wrong replay": (programs.wrong(after=1), "differs from the tape's"),
    "out of memory while it is made": (programs.compiling(exhausted), "no room"),
    "out of memory while it runs": (programs.compiling(lambda graph: exhausted), "no room"),
}


@pytest.mark.parametrize(("backend", "why"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.one_in(3)
def test_a_program_that_fails_in_its_trial_leaves_the_tape_aloud(backend: Backend, why: str) -> None:
    H = hesse.Hessian(quartic, X, expect=PAYS)
    with programs.running(backend), pytest.warns(UserWarning, match=f"goes on with the tape: .*{why}"):
        torch.testing.assert_close(H @ V, DENSE @ V)
    assert found(H)[0] == "tape"
    torch.testing.assert_close(H.at(X) @ V, DENSE @ V)


def test_a_trial_that_is_interrupted_leaves_the_tape() -> None:
    def interrupted(graph: Any) -> Any:
        raise KeyboardInterrupt

    H = hesse.Hessian(quartic, X, expect=PAYS)
    with programs.running(programs.compiling(interrupted)), pytest.raises(KeyboardInterrupt):
        H @ V
    torch.testing.assert_close(H @ V, DENSE @ V)
    assert found(H) == ("tape", 0)


def test_where_memory_is_short_no_program_is_tried_until_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    left = 2**20
    monkeypatch.setattr("hesse._base.memory.available", lambda device: left)
    H = hesse.Hessian(quartic, X, expect=PAYS)
    torch.testing.assert_close(H @ V, DENSE @ V)
    assert found(H) == ("tape", 0)
    assert "a program may take 512 MiB, and 512 KiB may be taken" in H.explain().engine_reason
    left = 2**40
    H.expect(1)
    assert found(H) == ("compiled", 1)


@pytest.mark.parametrize(("memory", "engine"), [("500MiB", "tape"), ("520MiB", "compiled")])
def test_a_program_that_does_not_fit_into_the_named_memory_is_not_tried(memory: str, engine: str) -> None:
    H = hesse.Hessian(quartic, X, memory=memory, expect=PAYS)
    torch.testing.assert_close(H @ V, DENSE @ V)
    assert H.explain().engine == engine


def test_many_vectors_at_once_decide_and_are_tried_anew_with_a_program() -> None:
    W = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    H = hesse.Hessian(quartic, X)
    torch.testing.assert_close(H @ W, DENSE @ W)
    # A batch takes a second, as one vector does.
    assert (H.explain().engine, H.explain().batching) == ("tape", "vmap")
    H.expect(PAYS)
    assert (H.explain().engine, H.explain().batching) == ("compiled", "undecided")
    torch.testing.assert_close(H @ W, DENSE @ W)
    assert (H.explain().batching, H.explain().chunk) == ("vmap", 16)


def test_a_jacobian_changes_in_both_directions() -> None:
    def curve(x: Tensor) -> Tensor:
        return torch.stack([x.prod(), (x**2).sum()])

    dense = torch.autograd.functional.jacobian(curve, X)
    u = torch.tensor([2.0, -1.0], dtype=torch.float64)
    for first in ("J", "its transpose"):
        J = hesse.Jacobian(curve, X, expect=PAYS)
        if first == "J":
            torch.testing.assert_close(J @ V, dense @ V)
        torch.testing.assert_close(J.T @ u, dense.T @ u)
        torch.testing.assert_close(J @ V, dense @ V)
        assert found(J) == ("compiled", 1)


def test_a_gauss_newton_matrix_of_a_function_changes_as_one() -> None:
    G = hesse.GaussNewton(torch.sin, X, expect=PAYS)
    torch.testing.assert_close(G @ V, X.cos() ** 2 * V)
    # One program of the prediction, and one of the loss by it.
    assert found(G) == ("compiled", 2)


def test_blocks_change_with_their_hessian() -> None:
    H = hesse.Hessian(lambda x, y: (x**3 * y).sum(), (X, V), expect=PAYS)
    block = H.block(0, 1)
    torch.testing.assert_close(block @ V, 3 * X**2 * V)
    assert found(H) == found(block) == ("compiled", 1)
    torch.testing.assert_close(block.T @ V, 3 * X**2 * V)


def test_what_is_closed_or_stale_is_refused_by_a_program_as_by_the_tape() -> None:
    x = X.clone()
    H = hesse.Hessian(quartic, x, expect=PAYS)
    H @ V
    assert H.explain().engine == "compiled"
    x.add_(1)
    for ask in ASKED.values():
        with pytest.raises(hesse.StalePointError):
            ask(H)
    H = H.at(X)
    H.close()
    with pytest.raises(hesse.ClosedError):
        H @ V


def test_a_negative_expectation_is_refused() -> None:
    with pytest.raises(ValueError, match="expect should be a number of products but is -1"):
        hesse.Hessian(quartic, X, expect=-1)


def test_questions_say_how_many_products_they_expect() -> None:
    expected: list[int] = []

    class Watched(hesse.Hessian):
        def expect(self, products: int) -> None:
            expected.append(products)

    H = Watched(quartic, X)
    hesse.spectral_density(H, num_probes=2, num_steps=2, rng=0)
    hesse.eigsh(H + H, k=2, rng=0)
    hesse.trace(H, method="exact")
    assert expected == [4, 28, 28, 6]
