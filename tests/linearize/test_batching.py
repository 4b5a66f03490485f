"""The choice between single and batched backwards: the faster one that is right, and the loop otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

import hesse
from tests.capabilities import batches_group_norm

from . import programs
from .chunked import Chunked
from .own_clock import OwnClock

MATRIX = torch.arange(12.0).reshape(3, 4)
ROWS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> OwnClock:
    """Time passes where a product says so."""
    return OwnClock(monkeypatch)


def right(rows: Tensor) -> Tensor:
    return rows @ MATRIX.mT


def wrong_in_batches(rows: Tensor) -> Tensor:
    return right(rows) * (1.0 if rows.dim() == 1 else 1.01)


def raises_in_batches(rows: Tensor) -> Tensor:
    if rows.dim() == 2:
        raise RuntimeError("no batching rule\nand more lines")
    return right(rows)


def nan_in_batches(rows: Tensor) -> Tensor:
    return right(rows) * (1.0 if rows.dim() == 1 else float("nan"))


@pytest.mark.parametrize(
    ("multiply", "single", "batch", "chosen", "reason"),
    [
        (right, 1.0, 2.0, "vmap", "a vector took 500 ms in a batch of 4, 1e[+]03 ms singly"),
        (right, 1.0, 5.0, "loop", "1.25e[+]03 ms in a batch of 4, 1e[+]03 ms singly"),
        # What gains so little is not worth its memory.
        (right, 1.0, 3.9, "loop", "ms in a batch of 4"),
        (wrong_in_batches, 1.0, 0.0, "loop", "differs from single products by"),
        (nan_in_batches, 1.0, 0.0, "loop", "differs"),
        (raises_in_batches, 1.0, 0.0, "loop", "a batch raises: no batching rule$"),
    ],
)
def test_a_trial_chooses_the_faster_way_that_is_right(
    multiply: Callable[[Tensor], Tensor], single: float, batch: float, chosen: str, reason: str, clock: OwnClock
) -> None:
    def timed(rows: Tensor) -> Tensor:
        clock.now += single if rows.dim() == 1 else batch
        return multiply(rows)

    chunked = Chunked()
    torch.testing.assert_close(chunked.multiply(timed, ROWS), right(ROWS))
    assert chunked.chunks.chosen == chosen
    assert re.search(reason, chunked.chunks.reason)
    # There is one trial.
    laps = clock.laps
    for key in ("term", "another"):
        torch.testing.assert_close(chunked.multiply(timed, ROWS, key=key), right(ROWS))
    assert (chunked.chunks.chosen, clock.laps) == (chosen, laps)


def test_a_batch_that_must_be_compiled_is_tried_only_where_that_pays(clock: OwnClock) -> None:
    sizes: list[int] = []

    def timed(rows: Tensor) -> Tensor:
        clock.now += 1.0
        sizes.append(len(rows) if rows.dim() == 2 else 1)
        return right(rows)

    dear, cheap = Chunked(fixed=16), Chunked(fixed=16)
    dear.multiply(timed, ROWS, pays=lambda seconds, past: seconds > 1.0)
    assert (dear.chunks.chosen, set(sizes)) == ("loop", {1})
    cheap.multiply(timed, ROWS, pays=lambda seconds, past: seconds == 1.0)
    assert (cheap.chunks.chosen, set(sizes)) == ("vmap", {1, 16})


def test_a_batch_that_must_be_compiled_waits_for_as_many_vectors_as_pay_for_it(clock: OwnClock) -> None:
    sizes: list[int] = []

    def timed(rows: Tensor) -> Tensor:
        clock.now += 1.0
        sizes.append(len(rows) if rows.dim() == 2 else 1)
        return right(rows)

    chunked, decided = Chunked(fixed=16), Chunked(fixed=16)
    for calls in range(4):
        sizes.clear()
        torch.testing.assert_close(
            chunked.multiply(timed, ROWS, pays=lambda seconds, past: past * seconds >= 2 * len(ROWS)), right(ROWS)
        )
        assert chunked.chunks.chosen == ("loop" if calls < 2 else "vmap")
        # While it waits nothing is measured again.
        assert calls != 1 or len(sizes) == len(ROWS)
        decided.multiply(timed, ROWS, pays=lambda seconds, past: past * seconds >= 2 * len(ROWS))
        decided.chunks.stay()
        assert decided.chunks.chosen == "loop"


def test_zeros_among_the_users_vectors_do_not_hide_a_wrong_batch() -> None:
    rows = torch.eye(4).repeat(5, 1) * torch.tensor([1.0, 0.0, 0.0, 0.0])

    def wrong_in_the_last(rows: Tensor) -> Tensor:
        weights = torch.tensor([1.0, 1.0, 1.0, 1.0 if rows.dim() == 1 else 2.0])
        return right(rows * weights)

    chunked = Chunked()
    chunked.multiply(wrong_in_the_last, rows)
    assert chunked.chunks.chosen == "loop"
    assert "differs" in chunked.chunks.reason


def test_a_wrong_small_leaf_is_noticed_beside_a_large_one() -> None:
    scale = torch.tensor([1e4, 1e4, 1.0])

    def wrong_in_the_last(rows: Tensor) -> Tensor:
        return right(rows) * scale * torch.tensor([1.0, 1.0, 1.0 if rows.dim() == 1 else 2.0])

    chunked = Chunked()
    product = chunked.multiply(wrong_in_the_last, ROWS, (2, 1))
    torch.testing.assert_close(product, right(ROWS) * scale)
    assert "differs" in chunked.chunks.reason


@pytest.mark.parametrize("mode", ["auto", "vmap"])
@pytest.mark.parametrize("new", ["width", "term", "point"])
def test_a_batch_that_is_wrong_at_one_width_term_or_point_alone_is_noticed(
    new: str, mode: Literal["auto", "vmap"], clock: OwnClock
) -> None:
    wrong = False

    def wrong_later(rows: Tensor) -> Tensor:
        clock.now += 1.0
        return right(rows) * (2.0 if wrong and rows.dim() == 2 and (new != "width" or len(rows) == 5) else 1.0)

    chunked = Chunked(mode)
    rows = torch.cat([ROWS, ROWS[:1]])
    for _ in range(2):
        torch.testing.assert_close(chunked.multiply(wrong_later, rows[:16]), right(rows[:16]))
    assert chunked.chunks.chosen == "vmap"
    wrong = True
    if new == "point":
        chunked.compared.clear()
    key = "another" if new == "term" else "term"
    if mode == "vmap":
        with pytest.raises(RuntimeError, match='batching="vmap" was asked for, but a batch differs'):
            chunked.multiply(wrong_later, rows, key=key)
    else:
        torch.testing.assert_close(chunked.multiply(wrong_later, rows, key=key), right(rows))
        assert chunked.chunks.chosen == "loop"


def test_few_vectors_are_multiplied_singly_without_a_trial() -> None:
    chunked = Chunked()
    chunked.multiply(right, ROWS[:15])
    assert chunked.chunks.chosen is None


def test_no_vectors_give_an_empty_product() -> None:
    assert Chunked().multiply(right, ROWS[:0]).shape == (0, 3)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match='"auto", "loop" or "vmap" but is \'fast\''):
        hesse.Hessian(lambda x: x.sum(), MATRIX, batching="fast")  # type: ignore[arg-type]  # the wrong value is the test


def test_points_and_blocks_compare_their_batches_anew_and_share_the_choice(clock: OwnClock) -> None:
    """By our clock a batch takes as long as a vector."""
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    H = hesse.Hessian(lambda a, b: (a**3 * b**2).sum(), (x, x + 3))
    V = torch.eye(5, dtype=torch.float64).repeat(1, 4)
    torch.testing.assert_close(H.block(0) @ V, (6 * x * (x + 3) ** 2).diag() @ V)
    assert (H.explain().batching, H.explain().chunk) == ("vmap", 16)
    laps = clock.laps
    moved = H.at((2 * x, x))
    torch.testing.assert_close(moved.block(0, 1) @ V, (6 * (2 * x) ** 2 * x).diag() @ V)
    assert clock.laps == laps


def test_where_pytorch_cannot_batch_the_loop_is_taken_and_said() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.Tanh()).double()
    images = torch.randn(2, 1, 5, 5, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (images,)).pow(2).sum()

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    H = hesse.Hessian(loss, parameters)
    dense = H @ torch.eye(H.shape[1], dtype=torch.float64)
    if not batches_group_norm():
        assert H.explain().batching == "loop"
        assert "batch raises" in H.explain().batching_reason
    order = list(parameters)
    blocks = torch.func.hessian(loss)(parameters)
    expected = torch.cat(
        [torch.cat([blocks[i][j].reshape(parameters[i].numel(), -1) for j in order], dim=1) for i in order]
    )
    torch.testing.assert_close(dense, expected)
    torch.testing.assert_close(H.to_dense(), expected)
    # What was chosen needs no second trial at another point.
    assert H.at(parameters).explain().batching == H.explain().batching


@pytest.mark.parametrize("engine", ["tape", "compiled"])
def test_inputs_without_elements_have_batches_without_entries(engine: str) -> None:
    H = programs.hessian(lambda x: (x**2).sum(), torch.zeros(0), engine=engine, batching="vmap")
    torch.testing.assert_close(H @ torch.zeros(0, 20), torch.zeros(0, 20))


def test_a_map_of_no_elements_multiplies_batches_by_zero() -> None:
    J = hesse.Jacobian(lambda x: x.sum().expand(3), torch.zeros(0), engine="tape", batching="vmap")
    torch.testing.assert_close(J @ torch.zeros(0, 20), torch.zeros(3, 20))


def test_a_linear_function_has_batches_of_zeros() -> None:
    H = programs.hessian(lambda x: (ROWS[0] * x).sum(), torch.ones(4), batching="vmap")
    torch.testing.assert_close(H @ ROWS.mT, torch.zeros(4, 20))
