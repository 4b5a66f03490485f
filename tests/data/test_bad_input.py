"""Bad input is one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import hesse
from tests.data.models import CLASSES, REAL, X, loader, mlp

OPERATORS = [hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ([], {}), ValueError, "The data given to .* holds no batch"),
        (lambda: (iter(loader(X, CLASSES)), {}), TypeError, r"which can be read once.*Give list\(data\)"),
        (lambda: ((b for b in loader(X, CLASSES)), {}), TypeError, "is a generator, which can be read once"),
        (lambda: (TensorDataset(X, CLASSES), {}), TypeError, "is a TensorDataset, which holds single samples"),
        (lambda: (3, {}), TypeError, r"should be a batch .* or hold batches but is <class 'int'>"),
        (lambda: ("text", {}), TypeError, r"should be a batch .* or hold batches but is <class 'str'>"),
        (lambda: ([3, 4], {}), TypeError, "Batch 0 of the data given to .* should hold tensors but is <class 'int'>"),
        (lambda: ([None], {}), TypeError, "Batch 0 .* should hold tensors but is <class 'NoneType'>"),
        (lambda: ((X.to("meta"), CLASSES), {}), ValueError, "Batch 0 .* is on meta but the model is on cpu"),
        (lambda: ((X, CLASSES), {"params": "9.*"}), ValueError, r"No parameter .* matches '9\.\*': it has 0\.weight"),
        (lambda: ((X, CLASSES), {"params": ["0.*", "x"]}), ValueError, "No parameter .* matches 'x'"),
        (lambda: ((X, CLASSES), {"params": lambda n, p: False}), ValueError, "No parameter .* matches the function"),
        (lambda: ((X, CLASSES), {"params": nn.Linear(2, 2)}), ValueError, "No parameter .* matches the Linear"),
        (lambda: ((X, CLASSES), {"params": 5}), TypeError, "params given to .* should be None, a name or glob"),
        (lambda: ((X, CLASSES), {"params": X}), TypeError, "params given to .* should be None, a name or glob"),
        (lambda: ((X, CLASSES), {"params": nn.Linear}), TypeError, "params given to .* should be None, a name or glob"),
        (lambda: ((X, CLASSES), {"reduction": "max"}), ValueError, "reduction should be one of None, 'mean', 'sum'"),
        (lambda: ((X, CLASSES), {"randomness": "yes"}), ValueError, "randomness should be one of 'fixed', 'refuse'"),
        (lambda: ((X, CLASSES), {"batching": "x"}), ValueError, "batching should be"),
        (lambda: ((X, CLASSES), {"memory": "lots"}), ValueError, "memory should be a number of bytes"),
        (lambda: ((X, CLASSES), {"memory": 10}), hesse.MemoryBudgetError, "too small for one row of the first batch"),
        (lambda: (loader(X, CLASSES), {"reduction": "sum"}), ValueError, "counts as a sum over rows but is a mean"),
    ],
)
def test_it_is_one_sentence(
    operator: type, make: Callable[[], tuple[Any, dict[str, Any]]], error: type[Exception], message: str
) -> None:
    data, words = make()
    with pytest.raises(error, match=message) as caught:
        operator(mlp(), F.cross_entropy, data, **words)
    assert operator.__name__ in str(caught.value) or message.split()[0] in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            lambda f, y: F.cross_entropy(f, y, reduction="none"),
            ValueError,
            r"but returned one of shape \(\d+,\). Reduce",
        ),
        (nn.CrossEntropyLoss(reduction="none"), ValueError, r"but returned one of shape \(\d+,\). Reduce"),
        (lambda f, y: 3.0, TypeError, "should return a Tensor with a single element but returned <class 'float'>"),
        (lambda f, y: y.sum(), TypeError, r"should be real and floating-point but has dtype torch\.int64"),
        (5, TypeError, "should be callable but has type <class 'int'>"),
    ],
)
@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton, hesse.EmpiricalFisher])
@pytest.mark.parametrize("one", [True, False], ids=["one batch", "loader"])
def test_a_loss_that_is_none(operator: type, loss: Any, error: type[Exception], message: str, one: bool) -> None:
    with pytest.raises(error, match=message):
        operator(mlp(), loss, (X, CLASSES) if one else loader(X, CLASSES))


def test_a_model_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"model given to LossHessian should be a torch\.nn\.Module but has type"):
        hesse.LossHessian(lambda x: x, F.cross_entropy, (X, CLASSES))
    with pytest.raises(ValueError, match="The model given to LossHessian has no parameters"):
        hesse.LossHessian(nn.Tanh(), F.mse_loss, (X, X))
    with pytest.raises(ValueError, match="has no parameter that requires gradients"):
        hesse.LossHessian(mlp().requires_grad_(False), F.mse_loss, (X, REAL))
    with pytest.raises(ValueError, match=r"'weight' given to LossHessian is not initialized yet"):
        hesse.LossHessian(nn.LazyLinear(3), F.mse_loss, (X, REAL))
    with pytest.raises(ValueError, match="is on cpu but the model is on meta"):
        hesse.LossHessian(mlp().to("meta"), F.mse_loss, (X, REAL))


def test_a_loss_left_out_needs_a_batch_of_keywords() -> None:
    with pytest.raises(TypeError, match="without a loss takes the one that the model works out"):
        hesse.LossHessian(mlp(), None, [(X, CLASSES, X)])
    with pytest.raises(TypeError, match=r"call= or output=.*but got both"):
        hesse.LossHessian(
            mlp(), F.mse_loss, (X, REAL), call=lambda model, loss, batch: 0, output=lambda model, batch: (0, 0)
        )


def test_rows_that_act_on_each_other_are_refused_over_several_batches() -> None:
    def contrast(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (f @ f.T).logsumexp(1).mean()

    def balance(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(f, y) + 1e-3 * f.softmax(1).mean(0).pow(2).sum()

    for loss in (contrast, balance):
        with pytest.raises(ValueError, match="neither the mean nor the sum of its rows' losses"):
            hesse.LossHessian(mlp(), loss, loader(X, CLASSES))
    hesse.LossHessian(mlp(), contrast, (X, CLASSES)).to_dense()
    told = hesse.LossHessian(mlp(), contrast, loader(X, CLASSES), reduction="sum", weight=lambda batch: 1)
    told.to_dense()


@pytest.mark.parametrize("reduction", [None, "mean"])
def test_a_weight_that_takes_more_than_a_batch_is_to_blame_itself(reduction: str | None) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument") as raised:
        hesse.LossHessian(mlp(), F.cross_entropy, loader(X, CLASSES), reduction=reduction, weight=lambda f, y: len(y))
    assert raised.value.__notes__ == ["LossHessian calls weight= with one argument, a batch, here of type list."]


def test_a_loss_that_is_not_finite_is_no_matter_of_rows_and_is_told_by_the_question() -> None:
    H = hesse.LossHessian(mlp(), lambda f, y: F.cross_entropy(f, y) * float("inf"), loader(X, CLASSES))
    assert H.value.isinf()
    with pytest.raises(hesse.NonFiniteProductError, match="LossHessian"):
        hesse.eigsh(H, k=1)


def test_a_batch_that_cannot_be_cut_is_taken_whole_with_a_warning() -> None:
    def contrast(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (f @ f.T).logsumexp(1).mean()

    expected = hesse.LossHessian(mlp(), contrast, (X, CLASSES)).to_dense()
    with pytest.warns(UserWarning, match="is not known to be a mean over rows, so it is not cut up"):
        H = hesse.LossHessian(mlp(), contrast, (X, CLASSES), memory="1000B")
    torch.testing.assert_close(H.to_dense(), expected)


def test_a_loss_that_draws_and_does_not_say_its_reduction_is_asked_for() -> None:
    model, batches = nn.Sequential(mlp(), nn.Dropout(0.3)), [(X[:6], CLASSES[:6]), (X[6:], CLASSES[6:])]

    def total(prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, reduction="sum")

    with pytest.raises(ValueError, match=r"draws random numbers, .* Give reduction='mean' or reduction='sum'"):
        hesse.LossHessian(model, total, batches)
    hesse.LossHessian(model, total, batches, weight=lambda batch: len(batch[1]))
    hesse.LossHessian(model, nn.CrossEntropyLoss(), batches)


def test_a_loss_of_each_row_is_reduced_by_who_calls_it() -> None:
    def call(model: nn.Module, loss: Any, batch: Any) -> Tensor:
        return loss(model(batch[0]), batch[1]).mean()

    H = hesse.LossHessian(mlp(), nn.CrossEntropyLoss(reduction="none"), loader(X, CLASSES), call=call)
    torch.testing.assert_close(H.value, F.cross_entropy(mlp()(X), CLASSES).detach())


def test_a_loss_that_differentiates_by_the_parameters_is_examined() -> None:
    def adapted(model: nn.Module, _: Any, batch: Any) -> Tensor:
        """The mean over rows of the loss after a step for each."""
        losses = []
        for x, y in zip(*batch, strict=True):
            parameters = dict(model.named_parameters())
            loss = F.cross_entropy(model(x), y)
            steps = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
            moved = {name: p - 0.1 * step for (name, p), step in zip(parameters.items(), steps, strict=True)}
            losses.append(F.cross_entropy(torch.func.functional_call(model, moved, x), y))
        return torch.stack(losses).mean()

    H = hesse.LossHessian(mlp(), None, loader(X, CLASSES), call=adapted)
    torch.testing.assert_close(H.value, adapted(mlp(), None, (X, CLASSES)).detach())


@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.EmpiricalFisher])
def test_batch_statistics_hide_the_reduction_of_a_loss_of_ones_own(operator: Any) -> None:
    def total(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().sum()

    model = nn.Sequential(nn.BatchNorm1d(4), mlp()).double()
    batches = [(X[:6], REAL[:6]), (X[6:], REAL[6:])]
    with pytest.raises(ValueError, match=r"do not show whether the loss given to .* Give reduction='mean' or"):
        operator(model, total, batches, batch_norm="per batch")
    summed = operator(model, total, batches, batch_norm="per batch", reduction="sum")
    parts = [operator(model, total, batch, reduction="sum").to_dense() for batch in batches]
    torch.testing.assert_close(summed.to_dense(), parts[0] + parts[1])


def test_a_reduction_that_contradicts_a_loss_that_draws_is_refused() -> None:
    model, batches = nn.Sequential(mlp(), nn.Dropout(0.3)), [(X[:6], CLASSES[:6]), (X[6:], CLASSES[6:])]
    with pytest.raises(ValueError, match=r"says that it is a mean over rows but reduction='sum' was given"):
        hesse.LossHessian(model, nn.CrossEntropyLoss(), batches, reduction="sum")
    told = hesse.LossHessian(model, nn.CrossEntropyLoss(), batches, reduction="sum", weight=lambda batch: 1)
    assert told.explain().reduction == "sum"


def test_a_batch_whose_part_fails_is_taken_whole_where_all_is_told() -> None:
    """Two rows pass, and seven would not: targets are places of other rows."""
    places = torch.arange(len(X)).roll(2)
    places[:2] = torch.tensor([1, 0])

    def contrast(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f @ f.T, y)

    expected = hesse.LossHessian(mlp(), contrast, (X, places)).to_dense()
    with pytest.warns(UserWarning, match="is not known to be a mean over rows, so it is not cut up"):
        H = hesse.LossHessian(
            mlp(), contrast, [(X, places)] * 2, reduction="mean", weight=lambda batch: 1, memory="1000B"
        )
    torch.testing.assert_close(H.to_dense(), expected)
