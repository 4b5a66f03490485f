"""Conduct over data: nothing of the user's changes, a point is a point, and what cannot be right is refused."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import hesse
from hesse._autograd.generators import put_back
from hesse._linearize.tape import Tape
from tests.data import references
from tests.data.models import CLASSES, REAL, X, loader, mlp, seeded

OPERATORS = [hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher]
# Of these small batches none stays linearized in it, and none is cut up.
LITTLE = "2600B"


def assert_equal(H: hesse.Operator, expected: Tensor) -> None:
    torch.testing.assert_close(H.to_dense(), expected, rtol=1e-10, atol=1e-13)


class Stateful(nn.Module):
    """Dropout, BatchNorm and a checkpoint around both."""

    def __init__(self, checkpointed: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.norm, self.dropout = nn.BatchNorm1d(6), nn.Dropout(0.4)
        self.checkpointed = checkpointed

    def middle(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(self.first(x)).tanh())

    def forward(self, x: Tensor) -> Tensor:
        middle = checkpoint(self.middle, x, use_reentrant=False) if self.checkpointed else self.middle(x)
        return self.second(middle)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Parameters, buffers, gradients, modes, flags and generators are afterwards what they were, to the bit."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    state = copy.deepcopy(model.state_dict())
    versions = [parameter._version for parameter in model.parameters()]
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    modes, generators = [module.training for module in model.modules()], (torch.get_rng_state(), random.getstate())
    yield
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert versions == [parameter._version for parameter in model.parameters()]
    assert identities == {name: id(parameter) for name, parameter in model.named_parameters()}
    assert modes == [module.training for module in model.modules()]
    assert all(bool((parameter.grad == 7.0).all()) for parameter in model.parameters() if parameter.requires_grad)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]


@pytest.mark.parametrize("memory", [None, "12KB"], ids=["kept", "recomputed"])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.one_in(5)
def test_products_leave_everything_of_the_model_as_it_was(
    operator: type, checkpointed: bool, memory: str | None
) -> None:
    model = seeded(Stateful, checkpointed)
    made = operator(model, nn.CrossEntropyLoss(), loader(X, CLASSES), batch_norm="per batch", memory=memory)
    with unchanged(model):
        for again in (made, made.at()) if checkpointed else (made,):
            _ = again.value
            again @ torch.ones(again.shape[1], dtype=torch.float64)
            again @ torch.eye(again.shape[1], dtype=torch.float64)[:, :3]
            again.blocks("layer")["second"] @ torch.ones(21, dtype=torch.float64)
            if again is made:
                state = torch.get_rng_state()
        torch.set_rng_state(state)


def test_the_generator_moves_only_if_the_loss_draws() -> None:
    state = torch.get_rng_state()
    H = hesse.LossHessian(mlp(), F.cross_entropy, DataLoader(TensorDataset(X, CLASSES), batch_size=4, shuffle=True))
    H @ torch.ones(27, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = [
        hesse.LossHessian(nn.Sequential(nn.Dropout(), mlp()), F.cross_entropy, (X, CLASSES)).to_dense() for _ in "ab"
    ]
    assert not torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(first, second)


masks_drawn: dict[tuple[int, float], list[Tensor]] = {}
"""By the length and the first number of a batch, the masks that were drawn for it."""


class Recording(nn.Module):
    """Dropout of one's own whose masks are remembered, outside of the model: it is evaluated as a private copy."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp()

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.bernoulli(torch.full_like(x, 0.5))
        masks_drawn.setdefault((len(x), float(x[0, 0])), []).append(mask)
        return self.model(x * mask)


@pytest.mark.parametrize("memory", [None, LITTLE], ids=["kept", "recomputed"])
@pytest.mark.one_in(2)
def test_dropout_draws_once_for_each_batch(memory: str | None) -> None:
    model = Recording()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), reduction="mean", memory=memory)
    masks_drawn.clear()
    v = torch.ones(27, dtype=torch.float64)
    first = H @ v
    torch.testing.assert_close(H @ v, first, rtol=0, atol=0)
    masks = []
    for start in (0, 4, 8):
        seen = masks_drawn[min(4, 10 - start), float(X[start, 0])]
        assert len(seen) == (1 if memory is None else 2)
        assert all(torch.equal(mask, seen[-1]) for mask in seen)
        masks.append(seen[-1])
    masked = X * torch.cat(masks)
    assert_equal(H, references.hessian(model.model, lambda call: F.cross_entropy(call(masked), CLASSES)))


def test_drawing_can_be_refused() -> None:
    model = nn.Sequential(nn.Dropout(0.5), mlp())
    with pytest.raises(
        RuntimeError, match=r'draws random numbers, as dropout does.* randomness="refuse".*model\.eval\(\)'
    ):
        hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), randomness="refuse")
    hesse.LossHessian(model.eval(), F.cross_entropy, loader(X, CLASSES), randomness="refuse") @ torch.ones(27).double()


def test_random_numbers_that_are_not_pytorchs_are_noticed() -> None:
    def loss(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f * random.random(), y)

    with pytest.warns(UserWarning, match="so it is not cut up"):
        H = hesse.LossHessian(
            mlp(), loss, loader(X, CLASSES), reduction="mean", weight=lambda batch: len(batch[0]), memory=LITTLE
        )
    _ = H.value
    with pytest.raises(RuntimeError, match=r"The loss of batch 0 is .* but was .* when it was evaluated before"):
        _ = H @ torch.ones(27, dtype=torch.float64)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.one_in(3)
def test_batch_statistics_over_several_batches_are_refused_with_the_reason(operator: type) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), mlp()).double()
    with pytest.raises(
        ValueError, match=r"layer 0 \(BatchNorm1d\) normalizes by the statistics of each batch.* no sum"
    ):
        operator(model, F.cross_entropy, loader(X, CLASSES))
    operator(model.eval(), F.cross_entropy, loader(X, CLASSES)).to_dense()


def test_batch_statistics_of_one_batch_or_of_each_by_choice_are_exact() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), mlp()).double()
    one = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES), memory="12KB")
    copy_ = copy.deepcopy(model)
    assert_equal(one, references.hessian(copy_, lambda call: F.cross_entropy(call(X), CLASSES)))
    each = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), batch_norm="per batch")

    def summed(call) -> Tensor:
        parts = [F.cross_entropy(call(x), y, reduction="sum") for x, y in loader(X, CLASSES)]
        return torch.stack(parts).sum() / 10

    assert_equal(each, references.hessian(copy_, summed))


@pytest.mark.parametrize("memory", [None, LITTLE], ids=["kept", "recomputed"])
@pytest.mark.parametrize("own", [None, torch.Generator()])
def test_a_loader_that_shuffles_by_a_generator_gives_the_same_batches_again(
    memory: str | None, own: torch.Generator | None
) -> None:
    model = mlp()
    shuffled = DataLoader(TensorDataset(X, CLASSES), batch_size=4, shuffle=True, generator=own)
    before = None if own is None else own.get_state()
    H = hesse.LossHessian(model, F.cross_entropy, shuffled, memory=memory)
    expected = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES))
    assert_equal(H, expected)
    torch.rand(3)
    assert_equal(H, expected)
    assert own is None or torch.equal(own.get_state(), before)


class Augmented:
    """Batches with noise."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in loader(X, CLASSES):
            yield x + self.draw(), y


@pytest.mark.parametrize("own", [None, random.Random(0), np.random.default_rng(0)])
def test_noise_of_any_generator_is_the_same_in_each_pass_and_the_users_stays_where_it_was(own: Any) -> None:
    draws = [random.random, np.random.rand] if own is None else [own.random]

    def draw() -> float:
        return own.random() if own is not None else random.random() + np.random.rand()  # noqa: NPY002  # users draw so

    with hesse.LossHessian(mlp(), F.cross_entropy, Augmented(draw), memory=LITTLE) as H:
        restore = [put_back(draw.__self__) for draw in draws]
        expected = [draw() for draw in draws]
        for undo in restore:
            undo()
        v = torch.ones(27, dtype=torch.float64)
        torch.testing.assert_close(H @ v, H @ v)
    assert [draw() for draw in draws] == expected


class Growing:
    """One more batch in each pass."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.number = 5

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.number += self.step
        for _ in range(self.number):
            yield X, CLASSES


def go_over_and_over(data: object) -> None:
    H = hesse.LossHessian(mlp(), F.cross_entropy, data, memory=LITTLE)
    for _ in range(3):
        H @ torch.ones(27, dtype=torch.float64)


@pytest.mark.parametrize(
    "data",
    [
        Augmented(random.SystemRandom().random),
        Growing(1),
        Growing(-1),
    ],
    ids=["augmented", "more", "fewer"],
)
def test_data_that_changes_between_passes_is_refused(data: object) -> None:
    with pytest.raises(RuntimeError, match=r"in an earlier pass of LossHessian: the loader shuffles or augments"):
        go_over_and_over(data)


def test_data_changed_in_memory_is_refused_and_at_means_now() -> None:
    model, x = mlp(), X.clone()
    H = hesse.LossHessian(model, F.cross_entropy, (x, CLASSES))
    H @ torch.ones(27, dtype=torch.float64)
    x.mul_(2)
    with pytest.raises(hesse.StalePointError, match="Batch 0 of the data is not what it was"):
        H @ torch.ones(27, dtype=torch.float64)
    assert_equal(H.at(), references.hessian(model, lambda call: F.cross_entropy(call(2 * X), CLASSES)))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("memory", [None, LITTLE], ids=["kept", "recomputed"])
@pytest.mark.one_in(3)
def test_after_an_optimizer_step_a_product_is_refused_and_at_means_now(operator: type, memory: str | None) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    H = operator(model, F.cross_entropy, loader(X, CLASSES), memory=memory)
    v = torch.ones(27, dtype=torch.float64)
    H @ v
    F.cross_entropy(model(X), CLASSES).backward()
    optimizer.step()
    with pytest.raises(hesse.StalePointError, match=r"The model's '0\.weight' has changed .* Call at\(\)"):
        H @ v
    fresh = operator(copy.deepcopy(model), F.cross_entropy, loader(X, CLASSES)).to_dense()
    torch.testing.assert_close(H.at() @ v, fresh @ v)


def test_switching_the_mode_is_refused() -> None:
    model = nn.Sequential(mlp(), nn.Dropout(0.5))
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES))
    model.eval()
    with pytest.raises(hesse.StalePointError, match="switched between training and evaluation"):
        H @ torch.ones(27, dtype=torch.float64)


def test_kept_batches_are_freed_by_close_and_without_the_collector() -> None:
    model = mlp()
    gc.collect()
    gc.disable()
    try:
        for operator in OPERATORS:
            H = operator(model, F.cross_entropy, loader(X, CLASSES))
            H @ torch.ones(27, dtype=torch.float64)
            kept = weakref.ref(H._point.kept_terms()[0])
            with H:
                pass
            assert kept() is None, operator
            with pytest.raises(hesse.ClosedError):
                H @ torch.ones(27, dtype=torch.float64)
            again = operator(model, F.cross_entropy, loader(X, CLASSES))
            again @ torch.ones(27, dtype=torch.float64)
            kept = weakref.ref(again._point.kept_terms()[0])
            del again
            assert kept() is None, operator
    finally:
        gc.enable()


def test_batches_that_are_evaluated_anew_are_freed_without_the_collector() -> None:
    made = [operator(mlp(), F.cross_entropy, loader(X, CLASSES), memory=LITTLE) for operator in OPERATORS]
    v = torch.ones(27, dtype=torch.float64)
    for H in made:
        H @ v
    # At once for all operators: looking through all objects takes long.
    gc.collect()
    gc.disable()
    try:
        before = sum(type(found) is Tape for found in gc.get_objects())
        for H in made:
            H @ v
            H @ torch.stack([v, v], 1)
        assert sum(type(found) is Tape for found in gc.get_objects()) == before
    finally:
        gc.enable()


@pytest.mark.parametrize("memory", [None, LITTLE], ids=["kept", "recomputed"])
def test_value_gradient_and_product_come_from_one_pass(memory: str | None) -> None:
    calls = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return self.model(x)

    H = hesse.LossHessian(Counting(), F.cross_entropy, loader(X, CLASSES), memory=memory)
    calls.clear()
    v = torch.ones(27, dtype=torch.float64)
    H @ v
    _ = H.value, H.gradient
    assert calls == [4, 4, 2]
    H @ torch.stack([v] * 5, 1)
    assert calls == [4, 4, 2] * (1 if memory is None else 2)
    H.at() @ v
    assert calls == [4, 4, 2] * (2 if memory is None else 3)


OUTSIDE: list[Tensor] = []


@pytest.mark.parametrize("place", ["a list", "a global", "a class"])
def test_a_parameter_reached_around_the_model_is_the_evaluations_or_refused(place: str) -> None:
    class Smuggling(nn.Module):
        smuggled: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()
            self.kept = [self.layer.weight]
            OUTSIDE[:] = self.kept
            Smuggling.smuggled = self.layer.weight

        def forward(self, x: Tensor) -> Tensor:
            return x @ {"a list": self.kept[0], "a global": OUTSIDE[0], "a class": Smuggling.smuggled}[place].T

    model = seeded(Smuggling)
    if place == "a class":
        with pytest.raises(RuntimeError, match=r"'layer\.weight' is used in a way"):
            hesse.LossHessian(model, F.mse_loss, (X, REAL))
        return
    expected = references.of_its_own(model, lambda model: F.mse_loss(model(X), REAL) + 0 * model.layer.bias.sum())
    torch.testing.assert_close(hesse.LossHessian(model, F.mse_loss, (X, REAL)).to_dense(), expected)
