"""``engine="auto"`` over data: when a program takes the tape's place, what it keeps right, and what it says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesse
from hesse._data import automatic
from hesse._linearize import engines as choice
from hesse._linearize import ladder
from tests.data import references
from tests.data.models import CLASSES, REAL, X, loader, mlp
from tests.data.test_programs import MATRICES, PROGRAMS, TIGHT, assert_equal

pytestmark = pytest.mark.usefixtures("uncompiled")

ONES = torch.ones(27, dtype=torch.float64)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling is expected to cost a microsecond, and a program always to be faster."""
    for price in ("CAPTURED_PRICE", "COMPILED_PRICE"):
        monkeypatch.setattr(choice, price, (1e-6, 0.0))
    monkeypatch.setattr(ladder, "_GAIN", 0.0)


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch, cheap: None) -> None:
    monkeypatch.setattr(ladder, "_GAIN", 1e12)


def multiplied(H: Any, times: int = 4) -> Any:
    for _ in range(times):
        product = H @ ONES
    return product


@pytest.mark.parametrize("operator", MATRICES)
def test_a_few_products_stay_with_the_tape_and_compile_nothing(operator: type) -> None:
    H = operator(mlp(), F.cross_entropy, loader(X, CLASSES))
    multiplied(H, 20)
    explained = H.explain()
    assert (explained.engine, explained.programs) == ("tape", 0)
    assert "ms by the tape engine; 20 were made" in str(explained)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("memory", [None, TIGHT])
@pytest.mark.parametrize("operator", MATRICES)
def test_many_products_change_to_programs_and_stay_right(
    operator: type, memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "_LOADED", 0)
    monkeypatch.setattr(automatic.DataEngine, "has_room_beside", lambda self, kept, device: True)
    model = mlp()
    H = operator(model, F.cross_entropy, loader(X, CLASSES), memory=memory)
    expected = MATRICES[operator](model)
    value, gradient = H.value, H.flatten(H.gradient)
    for _ in range(4):
        torch.testing.assert_close(H @ ONES, expected @ ONES)
    explained = H.explain()
    assert (explained.engine, explained.programs) == ("compiled", PROGRAMS[operator])
    assert "ms by the compiled engine" in explained.engine_reason
    assert (explained.kept == explained.pieces) == (memory is None)
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


@pytest.mark.usefixtures("dear")
def test_programs_that_are_measured_slower_give_way_to_the_tape_again_and_are_not_tried_at_other_points() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    expected = MATRICES[hesse.LossHessian](model)
    torch.testing.assert_close(multiplied(H), expected @ ONES)
    explained = H.explain()
    assert (explained.engine, explained.kept) == ("tape", 3)
    assert "ms by the compiled engine" in explained.engine_reason
    programs = explained.programs
    moved = H.at()
    multiplied(moved)
    assert moved.explain().programs == programs > 0


def test_what_is_expected_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: 1 s a product, so 30 s of compiling pay from 300 products on."""
    monkeypatch.setattr(automatic.Clock, "lap", lambda self, device: 1.0)
    monkeypatch.setattr(ladder, "_GAIN", 0.0)
    for price in ("CAPTURED_PRICE", "COMPILED_PRICE"):
        monkeypatch.setattr(choice, price, (30.0, 0.0))
    found = []
    for expect in (None, 299, 300):
        H = hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES), expect=expect)
        multiplied(H)
        found.append(H.explain().engine)
    assert found == ["tape", "tape", "compiled"]
    H = hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES))
    H.expect(300)
    multiplied(H)
    assert H.explain().engine == "compiled"
    with pytest.raises(ValueError, match="expect should be a number of products but is -1"):
        hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES), expect=-1)


@pytest.mark.usefixtures("cheap")
def test_many_vectors_at_once_and_blocks_change_to_programs_too() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    V = torch.eye(27, dtype=torch.float64).repeat(1, 3)
    expected = MATRICES[hesse.LossHessian](model)
    torch.testing.assert_close(H @ V, expected @ V)
    assert H.explain().engine == "compiled"
    block = H.block("0.weight", "2.bias")
    positions = [list(H.domain.flatten(H.unflatten(torch.arange(27.0)))).index(i) for i in range(27)]
    assert positions == list(range(27))
    torch.testing.assert_close(
        hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine="tape")
        .block("0.weight", "2.bias")
        .to_dense(),
        block.to_dense(),
    )


@pytest.mark.usefixtures("cheap")
def test_where_memory_is_short_nothing_is_tried_and_that_is_said() -> None:
    H = hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES), memory="1MiB")
    multiplied(H)
    assert H.explain().engine == "tape"
    assert "no other engine was tried, since that may take 512" in str(H.explain())


@pytest.mark.usefixtures("cheap")
def test_a_checkpoint_settles_the_engine_and_hands_it_on(tmp_path: Path) -> None:
    model = mlp()
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)

    def asked() -> Any:
        H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
        return hesse.eigsh(H, 2, checkpoint=path, rng=0), H.explain().engine

    (first, engine), (again, engine_again) = asked(), asked()
    assert engine == engine_again == "compiled"
    assert torch.equal(first.values, again.values)


@pytest.mark.usefixtures("cheap")
def test_dropout_keeps_its_draws_when_the_engine_changes() -> None:
    model = nn.Sequential(mlp(), nn.Dropout(0.5))
    H = hesse.LossHessian(model, F.mse_loss, loader(X, REAL))
    before = H @ ONES
    for _ in range(4):
        torch.testing.assert_close(H @ ONES, before)
    assert H.explain().engine in ("compiled", "tape")


def test_a_later_layout_without_a_program_is_taped_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, cheap: None
) -> None:
    class Short(nn.Module):
        """Decides by values where there are few rows."""

        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            factor = 1 if len(x) > 3 or x.sum() > -1e9 else 2
            return self.model(x) * factor

    model = Short()
    data = [(X[:4], CLASSES[:4])]
    H = hesse.LossHessian(model, F.cross_entropy, data)
    multiplied(H)
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


@pytest.mark.usefixtures("cheap")
def test_a_trial_that_is_cut_short_leaves_the_tape(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    broken = False

    class Data:
        def __iter__(self) -> Any:
            if broken:
                raise OSError("no such file")
            return iter(loader(X, CLASSES))

    H = hesse.LossHessian(model, F.cross_entropy, Data())
    multiplied(H, 2)
    before = automatic.DataEngine._tried

    def tried(self: Any, candidate: Any) -> None:
        nonlocal broken
        before(self, candidate)
        broken = True

    monkeypatch.setattr(automatic.DataEngine, "_tried", tried)
    with pytest.raises(OSError, match="no such file"):
        H @ ONES
    broken = False
    assert H.explain().engine == "tape"
    torch.testing.assert_close(H @ ONES, MATRICES[hesse.LossHessian](model) @ ONES)


@pytest.mark.usefixtures("cheap")
def test_a_warning_that_is_an_error_leaves_the_tape() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) * (1 if x.sum() > -1e9 else 2)

    model = Branching()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    multiplied(H, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="goes on with the tape"):
            H @ ONES
    assert H.explain().engine == "tape"
    torch.testing.assert_close(H @ ONES, MATRICES[hesse.LossHessian](model.model) @ ONES)


@pytest.mark.usefixtures("cheap")
def test_an_older_point_stays_with_what_it_has() -> None:
    model = mlp()
    older = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    newer = older.at()
    expected = MATRICES[hesse.LossHessian](model) @ ONES
    multiplied(newer)
    assert (older.explain().engine, newer.explain().engine) == ("tape", "compiled")
    torch.testing.assert_close(multiplied(older), expected)
    assert older.explain().engine == "tape"
    torch.testing.assert_close(newer @ ONES, expected)


@pytest.mark.usefixtures("cheap")
def test_a_checkpoint_by_the_tape_is_gone_on_with_by_the_tape(tmp_path: Path) -> None:
    model = mlp()
    path = hesse.Checkpoint(tmp_path / "eigsh.safetensors", seconds=0)

    def asked(engine: Any) -> Any:
        H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), engine=engine)
        if engine == "auto":
            multiplied(H)
            assert H.explain().engine == "compiled"
        return hesse.eigsh(H, 2, checkpoint=path, rng=0), H.explain().engine

    first, _ = asked("tape")
    again, engine = asked("auto")
    assert engine == "tape"
    assert torch.equal(first.values, again.values)
    with pytest.raises(ValueError, match=r'by the tape engine before and by the compiled one now.*engine="tape"'):
        asked("compiled")


@pytest.mark.usefixtures("cheap")
def test_no_columns_are_no_product() -> None:
    H = hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES))
    for _ in range(5):
        assert (H @ torch.zeros(27, 0, dtype=torch.float64)).shape == (27, 0)


@pytest.mark.parametrize("kept", [True, False])
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
