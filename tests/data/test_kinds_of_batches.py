"""What data may be: pairs as a loader gives them, objects whose parts have names; and what says why it is none."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hesse
from hesse._base import trees

DOUBLE = torch.float64
DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(8, 3, dtype=DOUBLE, generator=DRAWN)
Y = torch.randn(8, 3, dtype=DOUBLE, generator=DRAWN)
CLASSES = torch.randint(3, (8,), generator=DRAWN)
WEIGHTS = torch.rand(8, dtype=DOUBLE, generator=DRAWN)
V = torch.randn(12, dtype=DOUBLE, generator=DRAWN)

Loss = Callable[..., Tensor]


class Graph:
    """Attributes, which iterating gives with their names."""

    def __init__(self, **attributes: Tensor) -> None:
        self.__dict__.update(attributes)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.__dict__.items())

    def __len__(self) -> int:
        return len(self.__dict__)


class Loader:
    """Batches cut from tensors of its own."""

    def __init__(self) -> None:
        self.x, self.y = X, Y

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.x.split(4), self.y.split(4), strict=True)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3, dtype=DOUBLE), nn.Tanh())


def product(func: Callable[[Tensor], Tensor]) -> Tensor:
    """The Hessian of a loss of the predictions of ``X``, times ``V``."""
    net = model()
    flat = nn.utils.parameters_to_vector(net.parameters()).detach()

    def loss(flat: Tensor) -> Tensor:
        return func(torch.tanh(X @ flat[:9].reshape(3, 3).mT + flat[9:]))

    return torch.func.hessian(loss)(flat) @ V


def graph_loss(net: nn.Module, batch: Graph) -> Tensor:
    return F.mse_loss(net(batch.x), batch.y)  # type: ignore[attr-defined]  # as it was made


def weighted(net: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y, weights = batch
    return ((net(x) - y).square().mean(1) * weights).mean()


MSE = lambda p: F.mse_loss(p, Y)  # noqa: E731  # a function in one line
RIGHT: dict[str, tuple[Loss, Any, dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "a pair": (nn.MSELoss(), (X, Y), {}, MSE),
    "a list of a pair that looks alike": (nn.MSELoss(), [X, Y], {}, MSE),
    "what a loader gives": (
        nn.CrossEntropyLoss(),
        next(iter(DataLoader(TensorDataset(X, CLASSES), batch_size=8))),
        {},
        lambda p: F.cross_entropy(p, CLASSES),
    ),
    "a list of three": (
        weighted,
        [X, Y, WEIGHTS],
        {},
        lambda p: ((p - Y).square().mean(1) * WEIGHTS).mean(),
    ),
    "a list of batches": (lambda net, x: net(x).square().mean(), list(X.split(4)), {}, lambda p: p.square().mean()),
    "a list of pairs": (nn.MSELoss(), list(Loader()), {}, MSE),
    "a loader with tensors of its own": (nn.MSELoss(), Loader(), {}, MSE),
    "an object": (graph_loss, Graph(x=X, y=Y), {}, MSE),
    "a list of one object": (graph_loss, [Graph(x=X, y=Y)], {}, MSE),
    "objects and a weight": (
        graph_loss,
        [Graph(x=X[:6], y=Y[:6]), Graph(x=X[6:], y=Y[6:])],
        {"weight": lambda batch: len(batch.x)},
        MSE,
    ),
    "objects and a sum": (
        lambda net, batch: (net(batch.x) - batch.y).square().sum(),
        [Graph(x=X[:6], y=Y[:6]), Graph(x=X[6:], y=Y[6:])],
        {"reduction": "sum"},
        lambda p: (p - Y).square().sum(),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_it_is_multiplied(name: str) -> None:
    loss, data, options, reference = RIGHT[name]
    torch.testing.assert_close(hesse.LossHessian(model(), loss, data, **options) @ V, product(reference))


def test_the_command_casts_a_pair_as_one() -> None:
    problem = hesse.Problem(model=model(), loss=nn.MSELoss(), data=[X, Y])
    func, parameters = problem.function()
    torch.testing.assert_close(func(parameters), F.mse_loss(model()(X), Y))


REFUSED: dict[str, tuple[Loss, Any, type[Exception], str]] = {
    "fewer labels": (nn.CrossEntropyLoss(), (X, CLASSES[:6]), ValueError, "8 rows of predictions and 6 of targets"),
    "fewer labels later": (
        F.cross_entropy,
        [(X, CLASSES), (X, CLASSES[:6])],
        ValueError,
        "8 rows of predictions and 6 of targets",
    ),
    "fewer labels of a loss of one's own": (
        lambda p, t: F.nll_loss(p.log_softmax(1), t),
        (X, CLASSES[:6]),
        ValueError,
        "8 rows of predictions and 6 of targets",
    ),
    "inputs alone": (nn.CrossEntropyLoss(), X, TypeError, "compares a prediction with a target"),
    "a list of fewer labels": (nn.CrossEntropyLoss(), [X, CLASSES[:6]], TypeError, "compares a prediction"),
    "objects": (graph_loss, [Graph(x=X, y=Y)] * 2, ValueError, "has type Graph, .* Give weight="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_one_sentence(name: str) -> None:
    loss, data, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        hesse.LossHessian(model(), loss, data) @ V


@pytest.mark.parametrize("operator", [hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher])
def test_every_operator_says_how_many_labels_there_are(operator: Any) -> None:
    with pytest.raises(ValueError, match="8 rows of predictions and 6 of targets"):
        operator(model(), nn.CrossEntropyLoss(), (X, CLASSES[:6])) @ V


def test_what_a_loss_of_ones_own_raises_passes_through() -> None:
    def loss(predicted: Tensor, target: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        hesse.LossHessian(model(), loss, (X, CLASSES[:6])) @ V


def test_arrays_of_numpy_are_no_tensors() -> None:
    with pytest.raises(TypeError, match=r"holds arrays of NumPy.*torch\.from_numpy"):
        hesse.LossHessian(model(), nn.MSELoss(), (X.numpy(), Y.numpy())) @ V


@pytest.mark.parametrize("weight", [None, "a", -1, float("nan"), float("inf"), torch.ones(2)])
def test_a_weight_is_a_number(weight: Any) -> None:
    with pytest.raises(ValueError, match="weight= given to LossHessian should return a finite number"):
        hesse.LossHessian(model(), nn.MSELoss(), [(X, Y)] * 2, weight=lambda _: weight) @ V


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).square().mean()


def uneven() -> list[tuple[Tensor, Tensor]]:
    """Sequences of two lengths; a mean over their entries is none over rows."""
    return [(X[:4].reshape(2, 2, 3), Y[:4].reshape(2, 2, 3)), (X[4:].reshape(4, 1, 3), Y[4:].reshape(4, 1, 3))]


def test_rows_of_other_lengths_need_a_weight() -> None:
    H = hesse.LossHessian(model(), squared, uneven())
    with pytest.raises(ValueError, match=r"or more labels at all, .* Give weight="):
        _ = H.value
    weighed = hesse.LossHessian(model(), squared, uneven(), weight=lambda batch: batch[1].numel())
    torch.testing.assert_close(weighed @ V, product(lambda p: (p - Y).square().mean()))
    known = hesse.LossHessian(model(), nn.MSELoss(), uneven())
    torch.testing.assert_close(known @ V, product(lambda p: (p - Y).square().mean()))


def test_sums_over_rows_of_other_lengths_need_none() -> None:
    H = hesse.LossHessian(model(), lambda p, y: (p - y).square().sum(), uneven())
    torch.testing.assert_close(H @ V, product(lambda p: (p - Y).square().sum()))


def test_a_batchmean_is_a_mean_over_rows() -> None:
    loss, targets = nn.KLDivLoss(reduction="batchmean"), Y.softmax(1)
    H = hesse.LossHessian(model(), loss, [(X[:5], targets[:5]), (X[5:], targets[5:])])
    torch.testing.assert_close(H @ V, product(lambda p: (targets * (targets.log() - p)).sum() / len(X)))


def test_pairs_that_were_meant_otherwise_get_a_note() -> None:
    x, y = torch.ones(2, 3), torch.ones(2, 1)
    model = torch.nn.Linear(3, 1)
    with pytest.raises(TypeError, match=r"argument 'input'") as caught:
        hesse.LossHessian(model, torch.nn.MSELoss(), ((x, y), (x, y)))
    assert "Give several batches as a list, not a tuple" in caught.value.__notes__[0]

    def loss(model: Any, batch: Any) -> torch.Tensor:
        return (model(batch.x) - batch.y).square().mean()

    pair = collections.namedtuple("pair", "x y")(x, y)  # as users write it
    with pytest.raises(AttributeError, match="no attribute 'x'") as other:
        hesse.LossHessian(model, loss, [pair])
    assert "Give call=, a function of model, loss and batch." in other.value.__notes__[0]


def test_entries_of_batches_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred thousand small dicts it takes most of the time."""
    named: list[Any] = []
    monkeypatch.setattr(trees, "_flatten_containers", named.append)
    model, loss = nn.Linear(3, 2), nn.MSELoss()
    batch = {"x": torch.randn(4, 3), "y": torch.randn(4, 2), "about": [{"number": i} for i in range(4)]}
    H = hesse.LossHessian(model, loss, [batch], call=lambda model, loss, batch: loss(model(batch["x"]), batch["y"]))
    # Of a linear model: twice the mean of the inputs' products, which is what the bias gets of its own.
    product = H @ {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}
    torch.testing.assert_close(product["bias"], torch.ones(2))
    assert not named


@dataclasses.dataclass
class Smoothed:
    """A loss that has no hash."""

    smoothing: float

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, label_smoothing=self.smoothing)


def test_a_loss_may_have_no_hash() -> None:
    H = hesse.LossHessian(model(), Smoothed(0.1), (X, CLASSES))
    torch.testing.assert_close(H @ V, product(lambda p: F.cross_entropy(p, CLASSES, label_smoothing=0.1)))


def test_a_loss_with_a_hook_or_a_forward_of_its_own_is_not_pytorchs() -> None:
    hooked, replaced = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
    hooked.register_forward_hook(lambda module, arguments, output: 2 * output)
    replaced.forward = lambda prediction, target: F.cross_entropy(prediction / 2, target)
    for loss in (hooked, replaced):
        with pytest.raises(TypeError, match="Fisher needs the distribution of targets that the loss means"):
            hesse.Fisher(model(), loss, (X, CLASSES))


def test_class_weights_may_be_a_parameter() -> None:
    weights, loss = torch.tensor([1.0, 5.0, 0.3], dtype=DOUBLE), nn.CrossEntropyLoss()
    loss.weight = nn.Parameter(weights.clone())
    data = [(X[:5], CLASSES[:5]), (X[5:], CLASSES[5:])]
    expected = product(lambda p: F.cross_entropy(p, CLASSES, weight=weights))
    torch.testing.assert_close(hesse.LossHessian(model(), loss, data) @ V, expected)
    fixed = hesse.Fisher(model(), nn.CrossEntropyLoss(weight=weights), data)
    torch.testing.assert_close(hesse.Fisher(model(), loss, data) @ V, fixed @ V)
