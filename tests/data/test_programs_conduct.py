"""Programs over data change, share and believe nothing that they should not; and what they cannot take is refused."""

from __future__ import annotations

import copy
import gc
import os
import warnings
import weakref
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from hesse._linearize.program import backends
from tests.data import references
from tests.data.models import CLASSES, EVEN, REAL, X, inputs, loader, mlp, seeded
from tests.data.test_data_conduct import LITTLE, OPERATORS, Recording, Stateful, unchanged
from tests.data.test_users_models import FLOAT32, batches, gpt2

pytestmark = pytest.mark.usefixtures("uncompiled")

ONES = torch.ones(27, dtype=torch.float64)
# So many products pay for compiling, if each takes but a nanosecond.
EXPECTED = 10**14


def assert_equal(H: hesse.Operator, expected: Tensor) -> None:
    torch.testing.assert_close(H.to_dense(), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
@pytest.mark.one_in(8)
def test_products_leave_everything_of_the_model_as_it_was(operator: type, checkpointed: bool, verify: bool) -> None:
    model = seeded(Stateful, checkpointed)
    model.dropout.p = 0.0
    made = operator(
        model,
        nn.CrossEntropyLoss(),
        loader(X, CLASSES),
        batch_norm="per batch",
        engine="compiled",
        verify=verify,
        memory="12KB",
    )
    tape = operator(model, nn.CrossEntropyLoss(), loader(X, CLASSES), batch_norm="per batch")
    v = inputs(made.shape[1])
    with unchanged(model):
        for again in (made, made.at()):
            torch.testing.assert_close(again @ v, tape @ v)
            torch.testing.assert_close(again @ v, tape @ v)
            torch.testing.assert_close(again.value, tape.value)


@pytest.mark.parametrize("memory", [None, LITTLE], ids=["kept", "recomputed"])
@pytest.mark.one_in(2)
def test_dropout_draws_the_numbers_of_the_tape(memory: str | None) -> None:
    model = nn.Sequential(nn.Linear(4, 6).double(), nn.Dropout(0.4), nn.Tanh(), nn.Linear(6, 3).double())
    v = inputs(51)
    products, states = [], []
    for engine in ("tape", "compiled"):
        torch.manual_seed(5)
        H = hesse.LossHessian(
            model, F.cross_entropy, loader(X, CLASSES), reduction="mean", engine=engine, memory=memory
        )
        products.append([H @ v, H @ v, H.at() @ v])
        states.append(torch.get_rng_state())
    for ours, theirs in zip(*products, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(products[0][0], products[0][1])
    assert not torch.allclose(products[0][0], products[0][2])
    assert torch.equal(*states)


def test_drawing_can_be_refused() -> None:
    model = Recording()
    even = loader(X, CLASSES, batch_size=EVEN)
    H = hesse.LossHessian(model.model, F.cross_entropy, even, randomness="refuse", engine="compiled")
    H @ ONES
    with pytest.raises(RuntimeError, match='randomness="refuse" does not allow'):
        hesse.LossHessian(model, F.cross_entropy, even, randomness="refuse", engine="compiled")


class Branching(nn.Module):
    """A model that decides by a value that depends on its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp()

    def forward(self, x: Tensor) -> Tensor:
        f = self.model(x)
        return f if f.sum() > -1e9 else -f


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_model_that_no_program_can_hold_is_refused_or_taped(operator: type) -> None:
    model = Branching()
    H = operator(model, F.cross_entropy, loader(X, CLASSES), engine="compiled")
    with pytest.raises(
        hesse.CaptureError, match=r"cannot take this function: aten.*line \d+: .*f\.sum\(\) > -1e9"
    ) as e:
        H @ ONES
    assert "\n" not in str(e.value)
    auto = operator(model, F.cross_entropy, loader(X, CLASSES), expect=EXPECTED)
    with pytest.warns(UserWarning, match=r'engine="auto" goes on with the tape: aten.* needs the values') as caught:
        product = auto @ ONES
    assert caught[0].filename == __file__
    assert len(caught) == 1
    torch.testing.assert_close(product, operator(model, F.cross_entropy, loader(X, CLASSES), engine="tape") @ ONES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = auto.at()
        torch.testing.assert_close(moved @ ONES, product)
    explained = moved.explain()
    assert (explained.engine, explained.programs) == ("tape", 0)
    assert "tape (no program can be had: aten" in str(explained)


def test_a_loss_that_no_program_can_hold_is_taped_with_all_else() -> None:
    def loss(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f, y) * (1 if f.sum() > -1e9 else 2)

    model = mlp()
    G = hesse.GaussNewton(model, loss, loader(X, CLASSES), expect=EXPECTED)
    with pytest.warns(UserWarning, match="goes on with the tape"):
        product = G @ ONES
    torch.testing.assert_close(product, hesse.GaussNewton(model, loss, loader(X, CLASSES), engine="tape") @ ONES)
    assert G.explain().engine == "tape"


@pytest.mark.exhaustive
def test_a_batch_with_a_number_of_its_own_each_time_is_refused_by_name() -> None:
    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return F.mse_loss(model(batch["x"]), batch["y"]) + 0.0 * batch["step"]

    data = [{"x": X[:4], "y": REAL[:4], "step": step} for step in range(9)]
    H = hesse.LossHessian(mlp(), loss, data, engine="compiled")
    with pytest.raises(hesse.CaptureError, match=r"captured 8 times already, since .*'step'.* is different"):
        H @ ONES


class Holder:
    """Something of the user's that holds tensors and is no container."""

    def __init__(self, y: Tensor) -> None:
        self.y = y


def test_a_target_that_hides_its_tensors_is_refused() -> None:
    data = [{"x": X[i : i + 5], "y": CLASSES[i : i + 5]} for i in (0, 5)]
    options: dict[str, Any] = {
        "output": lambda model, batch: (model(batch["x"]), Holder(batch["y"])),
        "reduction": "mean",
        "weight": lambda batch: len(batch["x"]),
    }

    def loss(f: Tensor, held: Holder) -> Tensor:
        return F.cross_entropy(f, held.y)

    model = mlp()
    G = hesse.GaussNewton(model, loss, data, engine="compiled", **options)
    with pytest.raises(hesse.CaptureError, match="it returns tensors beside its result in a Holder"):
        G @ ONES
    taped = hesse.GaussNewton(model, loss, data, **options)
    plain = hesse.GaussNewton(model, F.cross_entropy, loader(X, CLASSES))
    torch.testing.assert_close(taped @ ONES, plain @ ONES)


def wrong(after: int) -> backends.Backend:
    """Halves that are off by one part in a hundred, from the given one on."""
    made: list[None] = []

    def compile(graph: Any) -> Any:
        made.append(None)
        factor = 1.01 if len(made) > after else 1.0
        return lambda given: [result * factor for result in graph(*given)]

    return backends.Backend(compile)


@pytest.mark.parametrize(("after", "what"), [(0, "value or gradient"), (1, "product with a random vector")])
@pytest.mark.one_in(3)
def test_a_program_that_differs_from_the_tape_is_refused(
    after: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "INDUCTOR", wrong(after))
    model = mlp()
    for operator in (hesse.LossHessian, hesse.GaussNewton):
        H = operator(model, F.mse_loss, loader(X, REAL, batch_size=EVEN), engine="compiled")
        with pytest.raises(hesse.CaptureError, match=f"the {what} differs from the tape's by"):
            H @ ONES
        monkeypatch.setattr(backends, "INDUCTOR", wrong(after))
    auto = hesse.LossHessian(model, F.mse_loss, loader(X, REAL), expect=EXPECTED)
    with pytest.warns(UserWarning, match="goes on with the tape: the .* differs from the tape's"):
        assert_equal(auto, references.hessian(model, lambda call: F.mse_loss(call(X), REAL)))


def test_a_program_that_is_right_at_one_point_only_is_refused_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(f: Tensor, y: Tensor) -> Tensor:
        # Nobody looks there.
        return float(os.environ["A_USERS_FACTOR"]) * F.mse_loss(f, y)

    monkeypatch.setenv("A_USERS_FACTOR", "1")
    H = hesse.LossHessian(mlp(), loss, loader(X, REAL, batch_size=EVEN), engine="compiled")
    H @ ONES
    monkeypatch.setenv("A_USERS_FACTOR", "2")
    with pytest.raises(hesse.CaptureError, match="differs from the tape's"):
        H.at() @ ONES


@pytest.mark.exhaustive
def test_attributes_of_classes_that_a_loss_names_are_read_at_each_point() -> None:
    class Settings:
        factor = 1.0

    model = mlp()
    H = hesse.LossHessian(
        model, lambda f, y: Settings.factor * F.mse_loss(f, y), loader(X, REAL, batch_size=EVEN), engine="compiled"
    )
    expected = references.hessian(model, lambda call: F.mse_loss(call(X), REAL))
    for Settings.factor in (1.0, 2.0, 5.0):
        H = H.at()
        torch.testing.assert_close(H @ ONES, Settings.factor * expected @ ONES)


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match='engine should be "tape", "compiled" or "auto" but is \'fast\''):
        hesse.LossHessian(mlp(), F.mse_loss, loader(X, REAL), engine="fast")  # type: ignore[arg-type]  # not an engine


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.one_in(4)
def test_what_is_kept_is_freed_without_the_collector(operator: type) -> None:
    gc.collect()
    gc.disable()
    try:
        H = operator(mlp(), F.cross_entropy, loader(X, CLASSES, batch_size=EVEN), engine="compiled")
        H @ torch.ones(27, 70, dtype=torch.float64)
        kept = weakref.ref(H._point.kept_terms()[0])
        del H
        assert kept() is None
    finally:
        gc.enable()


def test_a_stale_point_is_refused_and_the_mode_too() -> None:
    model = nn.Sequential(mlp(), nn.Dropout(0.0))
    even = loader(X, CLASSES, batch_size=EVEN)
    H = hesse.LossHessian(model, F.cross_entropy, even, engine="compiled", verify=False)
    product = H @ ONES
    model.eval()
    with pytest.raises(hesse.StalePointError, match="switched between training and evaluation"):
        H @ ONES
    torch.testing.assert_close(H.at() @ ONES, product)
    with torch.no_grad():
        model[0][0].weight.mul_(2)
    with pytest.raises(hesse.StalePointError, match="has changed in place"):
        H @ ONES


@pytest.mark.exhaustive
def test_a_language_model_of_hugging_face_with_labels_in_the_batch() -> None:
    model, data = gpt2(), batches(masked=True)[:1] * 2
    H = hesse.LossHessian(model, None, data, engine="compiled")
    tape = hesse.LossHessian(copy.deepcopy(model), None, data)
    v = inputs(H.shape[1])
    assert (H @ v - tape @ v).norm() <= FLOAT32 * (tape @ v).norm()
    assert H.explain().programs == 1
    assert isinstance(model, transformers.PreTrainedModel)
