"""``engine="auto"`` over data: when programs take the tape's place, what they keep right, and what is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesse
from hesse._linearize import engines
from hesse._operators.data_point import DataPoint
from tests.data import references
from tests.data.models import CLASSES, EVEN, REAL, X, loader, mlp
from tests.data.test_programs import MATRICES, PROGRAMS, TIGHT, assert_equal
from tests.linearize.own_clock import OwnClock

pytestmark = pytest.mark.usefixtures("uncompiled")

ONES = torch.ones(27, dtype=torch.float64)
MANY = 1000
COUNT = 90
"""After so many products an operator decides by itself, here."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> OwnClock:
    """By our own clock a batch takes a second by the tape and half of one by a program, which costs nothing to make."""
    monkeypatch.setattr(engines, "COUNT", COUNT)
    monkeypatch.setattr(engines, "FIXED_PRICE", 0.0)
    monkeypatch.setattr(engines, "NODE_PRICE", 0.0)
    return OwnClock(monkeypatch)


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program needs no room, so that it is tried where memory is tight."""
    monkeypatch.setattr(engines, "_LOADED", -(2**30))


def hessian(model: nn.Module, batch_size: int = 4, **options: Any) -> hesse.LossHessian:
    return hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES, batch_size=batch_size), **options)


def multiplied(H: Any, times: int) -> Any:
    for _ in range(times):
        product = H @ ONES
    return product


@pytest.mark.parametrize("operator", MATRICES)
def test_a_few_products_stay_with_the_tape_and_look_at_no_clock(operator: type, clock: OwnClock) -> None:
    H = operator(mlp(), F.cross_entropy, loader(X, CLASSES))
    multiplied(H, 20)
    assert (H.explain().engine, H.explain().programs, clock.laps) == ("tape", 0, 0)
    assert "tape (few products so far)" in str(H.explain())


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("memory", [None, TIGHT], ids=["kept", "recomputed"])
@pytest.mark.parametrize("operator", MATRICES)
@pytest.mark.one_in(11)
def test_many_products_change_to_programs_and_stay_right(operator: type, memory: str | None) -> None:
    model = mlp()
    H = operator(model, F.cross_entropy, loader(X, CLASSES), memory=memory, expect=MANY)
    expected = MATRICES[operator](model)
    value, gradient = H.value, H.flatten(H.gradient)
    torch.testing.assert_close(H @ ONES, expected @ ONES)
    explained = H.explain()
    assert (explained.engine, explained.programs) == ("compiled", PROGRAMS[operator])
    assert "ms by the compiled engine" in explained.engine_reason
    assert (explained.kept == explained.microbatches) == (memory is None)
    assert_equal(H, expected)
    # What the tape found stays.
    assert torch.equal(H.value, value)
    assert torch.equal(H.flatten(H.gradient), gradient)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    moved = H.at()
    assert_equal(moved, MATRICES[operator](model))
    assert (moved.explain().engine, moved.explain().programs) == ("compiled", PROGRAMS[operator])


@pytest.mark.exhaustive
def test_programs_that_are_slower_give_way_to_the_tape_again_and_are_not_tried_at_other_points(clock: OwnClock) -> None:
    clock.program = 2.0
    model = mlp()
    H = hessian(model, expect=MANY)
    torch.testing.assert_close(H @ ONES, MATRICES[hesse.LossHessian](model) @ ONES)
    explained = H.explain()
    assert (explained.engine, explained.kept, explained.programs) == ("tape", 3, 2)
    assert "ms by the compiled engine" in explained.engine_reason
    laps = clock.laps
    moved = H.at()
    moved.expect(10**6)
    multiplied(moved, COUNT)
    assert (moved.explain().engine, moved.explain().programs, clock.laps) == ("tape", 2, laps)


def test_the_products_that_are_expected_must_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product takes three seconds, one for each batch, so that thirty seconds of compiling pay from 100 on."""
    monkeypatch.setattr(engines, "FIXED_PRICE", 30.0)
    for expect, engine in ((None, "tape"), (99, "tape"), (100, "compiled")):
        H = hessian(mlp(), expect=expect)
        multiplied(H, 2)
        assert H.explain().engine == engine
    with pytest.raises(ValueError, match="expect should be a number of products but is -1"):
        hessian(mlp(), expect=-1)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("memory", [None, TIGHT], ids=["kept", "recomputed"])
def test_the_price_is_that_of_a_batchs_graph_also_where_none_is_kept(
    memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "NODE_PRICE", 30.0)
    H = hessian(mlp(), memory=memory, expect=99)
    multiplied(H, 2)
    assert H.explain().engine == "tape"
    assert "99 products are expected, too few to pay" in H.explain().engine_reason


@pytest.mark.exhaustive
def test_products_at_all_points_count(clock: OwnClock) -> None:
    H = hessian(mlp(), batching="loop")
    multiplied(H, COUNT - 20)
    H = H.at()
    H @ ONES.repeat(20, 1).T
    assert (H.explain().engine, clock.laps) == ("tape", 0)
    H.at() @ ONES
    assert H.at().explain().engine == "compiled"


@pytest.mark.exhaustive
def test_many_vectors_at_once_and_blocks_change_to_programs_too() -> None:
    model = mlp()
    H = hessian(model, EVEN, expect=MANY)
    V = torch.eye(27, dtype=torch.float64).repeat(1, 3)
    expected = MATRICES[hesse.LossHessian](model)
    torch.testing.assert_close(H @ V, expected @ V)
    assert H.explain().engine == "compiled"
    block = H.block("0.weight", "2.bias")
    assert block.explain().engine == "compiled"
    # The last layer's bias comes last.
    torch.testing.assert_close(block.to_dense(), expected[:12, 24:])


def test_where_memory_is_short_nothing_is_tried_and_that_is_said() -> None:
    H = hessian(mlp(), memory="1MiB", expect=MANY)
    multiplied(H, 2)
    assert (H.explain().engine, H.explain().programs) == ("tape", 0)
    assert "a program may take 512" in str(H.explain())


@pytest.mark.exhaustive
def test_a_checkpoint_hands_the_engine_on(tmp_path: Path, clock: OwnClock) -> None:
    model = mlp()
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)

    def asked(**options: Any) -> Any:
        H = hessian(model, **options)
        return hesse.eigsh(H, 2, checkpoint=path, rng=0).values, H.explain().engine

    first, engine = asked(expect=MANY)
    laps, clock.program = clock.laps, 2.0
    again, engine_again = asked()
    assert (engine, engine_again, clock.laps) == ("compiled", "compiled", laps)
    assert torch.equal(first, again)


@pytest.mark.exhaustive
def test_a_checkpoint_by_the_tape_is_gone_on_with_by_the_tape(tmp_path: Path) -> None:
    model = mlp()
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)

    def asked(engine: Any) -> Any:
        H = hessian(model, EVEN, engine=engine, expect=MANY)
        H @ ONES
        before = H.explain().engine
        return hesse.eigsh(H, 2, checkpoint=path, rng=0), before, H.explain().engine

    first, *_ = asked("tape")
    again, before, after = asked("auto")
    assert (before, after) == ("compiled", "tape")
    assert torch.equal(first.values, again.values)
    with pytest.raises(ValueError, match=r'by the tape engine before and by the compiled one now.*engine="tape"'):
        asked("compiled")


def test_dropout_keeps_its_draws_when_the_engine_changes() -> None:
    model = nn.Sequential(mlp(), nn.Dropout(0.5))
    H = hesse.LossHessian(model, F.mse_loss, loader(X, REAL))
    before, state = H @ ONES, torch.get_rng_state()
    H.expect(MANY)
    torch.testing.assert_close(H @ ONES, before)
    assert H.explain().engine == "compiled"
    assert torch.equal(torch.get_rng_state(), state)


class Short(nn.Module):
    """Decides by values where there are few rows, so that only the last batch has no program."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = self.model(x)
        return f * (1 if len(x) > 3 or f.sum() > -1e9 else 2)


@pytest.mark.exhaustive
def test_a_layout_without_a_program_leaves_the_tape_for_all_with_one_warning() -> None:
    model = Short()
    H = hessian(model, expect=MANY)
    with pytest.warns(UserWarning, match='engine="auto" goes on with the tape') as caught:
        product = H @ ONES
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(product, hessian(model, engine="tape") @ ONES)
    assert H.explain().engine == "tape"


def test_a_later_layout_without_a_program_is_taped_with_one_warning() -> None:
    model = Short()
    data = [(X[:4], CLASSES[:4])]
    H = hesse.LossHessian(model, F.cross_entropy, data, expect=MANY)
    H @ ONES
    assert H.explain().engine == "compiled"
    data[0] = (X[:2], CLASSES[:2])
    moved = H.at()
    with pytest.warns(UserWarning, match='engine="auto" goes on with the tape'):
        product = moved @ ONES
    expected = references.hessian(model.model, lambda call: F.cross_entropy(call(X[:2]), CLASSES[:2]))
    torch.testing.assert_close(product, expected @ ONES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(moved.at() @ ONES, product)


def test_a_trial_that_is_cut_short_leaves_the_tape(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    broken = False

    class Data:
        def __iter__(self) -> Any:
            if broken:
                raise OSError("no such file")
            return iter(loader(X, CLASSES))

    relinearize: Callable[[DataPoint], None] = DataPoint.relinearize

    def breaking(point: DataPoint) -> None:
        nonlocal broken
        broken = True
        relinearize(point)

    H = hesse.LossHessian(model, F.cross_entropy, Data(), expect=MANY)
    monkeypatch.setattr(DataPoint, "relinearize", breaking)
    with pytest.raises(OSError, match="no such file"):
        H @ ONES
    broken = False
    assert H.explain().engine == "tape"
    torch.testing.assert_close(H @ ONES, MATRICES[hesse.LossHessian](model) @ ONES)


def test_a_warning_that_is_an_error_leaves_the_tape() -> None:
    model = Short()
    H = hessian(model, expect=MANY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="goes on with the tape"):
            H @ ONES
    assert H.explain().engine == "tape"
    torch.testing.assert_close(H @ ONES, MATRICES[hesse.LossHessian](model.model) @ ONES)


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize("memory", [None, TIGHT], ids=["kept", "recomputed"])
@pytest.mark.exhaustive
def test_an_older_point_stays_with_what_it_has(memory: str | None) -> None:
    model = mlp()
    older = hessian(model, memory=memory)
    newer, before = older.at(), older @ ONES
    newer.expect(MANY)
    assert (older.explain().engine, newer.explain().engine) == ("tape", "compiled")
    # To the bit, also where batches are linearized anew.
    assert torch.equal(older @ ONES, before)
    torch.testing.assert_close(newer @ ONES, before)


def test_no_columns_are_no_product() -> None:
    assert (hessian(mlp(), expect=MANY) @ torch.zeros(27, 0, dtype=torch.float64)).shape == (27, 0)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.one_in(2)
def test_many_batches_in_half_precision_add_up(kept: bool) -> None:
    """In bfloat16 a sum of a hundred equal parts would stop growing."""
    layer = nn.Linear(2, 1, bias=False).bfloat16()
    data = [(torch.ones(2, 2).bfloat16(), torch.ones(2, 1).bfloat16())] * 1000
    H = hesse.LossHessian(
        layer, nn.MSELoss(reduction="sum"), data, reduction="sum", engine="tape", memory=None if kept else 2000
    )
    torch.testing.assert_close(H @ torch.tensor([1.0, 0.0]), torch.full((2,), 4000.0), rtol=1e-3, atol=0)
    assert (H.explain().kept == 1000) is kept


def test_what_a_backward_of_ones_own_keeps_is_not_added_into() -> None:
    held: list[torch.Tensor] = []

    class Slope(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            # The product with a vector of ones, which it hands out anew each time.
            if not held:
                held.append(torch.full_like(g, 2.0))
            return held[0]

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return (x * x).sum()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return g * Slope.apply(ctx.saved_tensors[0])

    layer = nn.Linear(3, 1, bias=False).double()
    data = [(torch.zeros(2, 3).double(), torch.zeros(2, 1).double())] * 4
    H = hesse.LossHessian(layer, None, data, call=lambda model, loss, batch: Square.apply(model.weight), engine="tape")
    for _ in range(3):
        torch.testing.assert_close(H @ torch.ones(3).double(), torch.full((3,), 2.0).double())
