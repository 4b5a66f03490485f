"""``decide()``: what was decided is a record, which another run or process follows, or refuses with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize import engines
from hesse._linearize.program.backends import EAGER
from tests.linearize import programs
from tests.linearize.own_clock import OwnClock

X = torch.linspace(-1, 1, 6, dtype=torch.float64)
V = torch.linspace(0, 2, 6, dtype=torch.float64)
COLUMNS = torch.eye(6, dtype=torch.float64).repeat(1, 3)
MANY = 1000


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum() + x.prod()


DENSE = torch.autograd.functional.hessian(quartic, X)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnClock]:
    """By our own clock programs are faster, and cost nothing to make."""
    monkeypatch.setattr(engines, "FIXED_PRICE", 0.0)
    monkeypatch.setattr(engines, "NODE_PRICE", 0.0)
    with programs.running(EAGER):
        yield OwnClock(monkeypatch)


def test_after_a_decision_nothing_is_decided_any_more(clock: OwnClock) -> None:
    H = hesse.Hessian(quartic, X)
    record = H.decide()
    assert record == {"engine": "tape", "batching": "vmap", "chunk": 16, "rows": None, "lone": False}
    other = hesse.Hessian(quartic, X, expect=MANY)
    assert other.decide(record) == record
    laps = clock.laps
    for one in (H, other, H.at(2 * X)):
        one.expect(MANY)
        one @ COLUMNS
        assert (one.explain().choice, clock.laps) == (hesse.Choice("tape", "vmap", 16), laps)


def test_a_checkpoint_hands_the_engine_on(tmp_path: Path, clock: OwnClock) -> None:
    path = hesse.Checkpoint(tmp_path / "density.safetensors", seconds=0)

    def density(expect: int | None) -> tuple[Tensor, str]:
        H = hesse.Hessian(quartic, X, expect=expect)
        answer = hesse.spectral_density(H, num_probes=3, num_steps=4, rng=0, checkpoint=path)
        return answer.density, H.explain().engine

    expected, engine = density(MANY)
    assert engine == "compiled"
    laps = clock.laps
    # By its own products this one would stay with the tape; the checkpoint says otherwise.
    again, engine = density(None)
    assert (engine, clock.laps) == ("compiled", laps)
    assert torch.equal(again, expected)


def test_a_question_that_goes_on_with_the_tape_does_not_measure_what_it_expects(
    tmp_path: Path, clock: OwnClock
) -> None:
    path = hesse.Checkpoint(tmp_path / "density.safetensors", seconds=0)

    def density(engine: Any) -> tuple[Tensor, str]:
        H = hesse.Hessian(quartic, X, engine=engine)
        answer = hesse.spectral_density(H, num_probes=20, num_steps=5, rng=0, checkpoint=path)
        return answer.density, H.explain().engine

    expected, _ = density(hesse.Choice("tape"))
    laps = clock.laps
    again, engine = density("auto")
    assert (engine, clock.laps) == ("tape", laps)
    assert torch.equal(again, expected)


def test_a_checkpoint_by_another_engine_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)
    hesse.eigsh(hesse.Hessian(quartic, X, engine="tape"), 2, checkpoint=path, rng=0)
    with pytest.raises(ValueError, match=r'by the tape engine before and by the compiled one now.*engine="tape"'):
        hesse.eigsh(hesse.Hessian(quartic, X, engine="compiled"), 2, checkpoint=path, rng=0)


def test_what_multiplies_by_a_program_already_cannot_go_back_to_the_tape(tmp_path: Path) -> None:
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)
    hesse.eigsh(hesse.Hessian(quartic, X, engine="tape"), 2, checkpoint=path, rng=0)
    H = hesse.Hessian(quartic, X, expect=MANY)
    H @ V
    with pytest.raises(ValueError, match=r'by the tape engine before and by the compiled one now.*engine="tape"'):
        hesse.eigsh(H, 2, checkpoint=path, rng=0)
    for one in (H, H.at(X)):
        torch.testing.assert_close(one @ V, DENSE @ V)
        assert one.explain().engine == "compiled"


def test_a_function_without_a_program_cannot_follow_one_and_stays_with_the_tape() -> None:
    H = hesse.Hessian(lambda x: quartic(x) if x.sum() > -100 else x.sum(), X)
    product = H @ V
    with pytest.raises(ValueError, match=r'by the compiled engine before and by the tape one now.*engine="compiled"'):
        H.decide({"engine": "compiled", "batching": "loop", "chunk": 1, "rows": None})
    assert "needs the values of a tensor" in str(H.explain().refusal)
    for one in (H, H.at(X)):
        assert torch.equal(one @ V, product)
        assert one.explain().engine == "tape"


def test_a_point_keeps_its_engine_when_a_later_one_decides() -> None:
    older = hesse.Hessian(quartic, X)
    newer = older.at(X)
    before = older @ V
    newer.expect(MANY)
    assert (older.explain().engine, newer.explain().engine) == ("tape", "compiled")
    assert torch.equal(older @ V, before)
    assert older.decide()["engine"] == "tape"
    torch.testing.assert_close(newer @ V, DENSE @ V)


def test_a_function_that_draws_follows_a_program_with_the_numbers_that_it_drew(clock: OwnClock) -> None:
    clock.program = 2.0
    H = hesse.Hessian(lambda x: ((torch.nn.functional.dropout(x, 0.5) + 1) ** 4).sum(), X)
    H.expect(MANY)
    moved = H.at(X)
    assert moved.explain().engine == "tape"
    product, state = moved @ V, torch.get_rng_state()
    moved.decide({"engine": "compiled", "batching": "loop", "chunk": 1, "rows": None})
    assert moved.explain().engine == "compiled"
    torch.testing.assert_close(moved @ V, product)
    assert torch.equal(torch.get_rng_state(), state)
