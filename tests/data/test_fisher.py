"""Fisher by its definition: scores of every target, weighted by p(y|x) ∝ exp(−unreduced loss)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse
from tests.data import references
from tests.data.models import BITS, CLASSES, REAL, X, inputs, loader, mlp

WEIGHT = torch.tensor([1.0, 5.0, 0.3], dtype=torch.float64)


def assert_equal(A: hesse.Operator, expected: Tensor) -> None:
    torch.testing.assert_close(A.to_dense(), expected, rtol=1e-11, atol=1e-13)


def expectation(unreduced: Callable[[Tensor, Tensor], Tensor], targets: list[Tensor], f: Tensor) -> Tensor:
    """E[s·sᵀ] over finitely many targets of one sample, by enumeration."""
    losses = torch.stack([unreduced(f, target) for target in targets])
    scores = torch.stack([torch.autograd.functional.jacobian(lambda g, t=t: unreduced(g, t), f) for t in targets])
    return torch.einsum("y,yi,yj->ij", (-losses).softmax(0), scores, scores)


def by_definition(model: nn.Module, per_sample: Callable[[int, Tensor], Tensor], c: float) -> Tensor:
    """c·Σ J_nᵀ·E_n·J_n."""
    J = references.jacobian(model, lambda call: call(X))
    F_ = [per_sample(n, f) for n, f in enumerate(model(X).detach())]
    return c * sum(J[n].T @ F_[n] @ J[n] for n in range(len(X)))


CATEGORICAL = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "weighted": {"weight": WEIGHT},
    "smoothed": {"label_smoothing": 0.3},
    "ignoring": {"ignore_index": 1},
}


@pytest.mark.parametrize("memory", [None, "2KB"], ids=["kept", "little memory"])
@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss], ids=["cross_entropy", "nll"])
@pytest.mark.one_in(3)
def test_classes_are_enumerated(loss: Callable[..., Tensor], name: str, memory: str | None) -> None:
    options = CATEGORICAL[name]
    if loss is F.nll_loss and name == "smoothed":
        options = {}
    model = mlp()
    if loss is F.nll_loss:
        model.append(nn.LogSoftmax(1))
    unreduced_options = {key: value for key, value in options.items() if key != "reduction"}

    def unreduced(f: Tensor, y: Tensor) -> Tensor:
        return loss(f[None], y[None], **unreduced_options, reduction="sum")

    def per_sample(n: int, f: Tensor) -> Tensor:
        if name == "ignoring" and CLASSES[n] == 1:
            return torch.zeros(3, 3, dtype=torch.float64)
        classes = [torch.tensor(y) for y in range(3)]
        if name == "ignoring":
            # An ignored class is no target, but the distribution does not know that.
            return expectation(lambda f, y: loss(f[None], y[None], reduction="sum"), classes, f)
        return expectation(unreduced, classes, f)

    c = {
        "mean": 0.1,
        "sum": 1.0,
        "weighted": 1 / float(WEIGHT[CLASSES].sum()),
        "smoothed": 0.1,
        "ignoring": 1 / float((CLASSES != 1).sum()),
    }[name]
    fisher = hesse.Fisher(model, functools.partial(loss, **options), loader(X, CLASSES), memory=memory)
    assert_equal(fisher, by_definition(model, per_sample, c))
    assert fisher.positive_semidefinite
    assert fisher.symmetric


def test_bits_are_enumerated() -> None:
    model = mlp()
    targets = [torch.tensor(bits, dtype=torch.float64) for bits in itertools.product([0.0, 1.0], repeat=3)]

    def per_sample(n: int, f: Tensor) -> Tensor:
        return expectation(lambda f, y: F.binary_cross_entropy_with_logits(f, y, reduction="sum"), targets, f)

    fisher = hesse.Fisher(model, nn.BCEWithLogitsLoss(), loader(X, BITS))
    assert_equal(fisher, by_definition(model, per_sample, 1 / 30))


@pytest.mark.parametrize(("loss", "power"), [(F.mse_loss, 2), (F.l1_loss, 1)])
def test_real_targets_are_integrated_over(loss: Callable[..., Tensor], power: int) -> None:
    """E[s²] of one element by the rectangle rule; elements are independent and scores have mean zero."""
    y = torch.linspace(-12, 12, 200_002, dtype=torch.float64)
    density = torch.exp(-(y.abs() ** power))
    score = power * y.abs() ** (power - 1) * y.sign()
    information = float((density * score**2).sum() / density.sum())
    model = mlp()
    fisher = hesse.Fisher(model, loss, loader(X, REAL))
    expected = by_definition(model, lambda n, f: information * torch.eye(3, dtype=torch.float64), 1 / 30)
    torch.testing.assert_close(fisher.to_dense(), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("make", "target"), [(nn.CrossEntropyLoss, CLASSES), (nn.MSELoss, REAL), (nn.BCEWithLogitsLoss, BITS)]
)
def test_it_equals_gauss_newton_where_it_should(make: type[nn.Module], target: Tensor, reduction: str) -> None:
    model, loss = mlp(), make(reduction=reduction)
    fisher = hesse.Fisher(model, loss, loader(X, target))
    torch.testing.assert_close(fisher.to_dense(), hesse.GaussNewton(model, loss, loader(X, target)).to_dense())


class Sequences(nn.Module):
    """The classes of several tokens, in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).transpose(1, 2)


def test_sequences_have_their_classes_in_the_second_dimension() -> None:
    x = inputs(4, 5, 4)
    y = torch.randint(3, (4, 5), generator=torch.Generator().manual_seed(0))
    y[1, 2:] = -100
    sequences = Sequences()
    flat = hesse.Fisher(sequences.model, F.cross_entropy, (x.flatten(0, 1), y.flatten()))
    torch.testing.assert_close(
        hesse.Fisher(sequences, F.cross_entropy, loader(x, y, batch_size=3)).to_dense(), flat.to_dense()
    )


@pytest.mark.parametrize(
    ("make", "target"),
    [(nn.CrossEntropyLoss, CLASSES), (nn.MSELoss, REAL), (nn.BCEWithLogitsLoss, BITS), (nn.L1Loss, REAL)],
)
@pytest.mark.one_in(6)
def test_drawn_targets_come_near_the_expectation(make: type[nn.Module], target: Tensor) -> None:
    model = mlp()
    exact = hesse.Fisher(model, make(), loader(X, target)).to_dense()
    drawn = [hesse.Fisher(model, make(), loader(X, target), samples=50, rng=seed).to_dense() for seed in range(20)]
    mean, spread = torch.stack(drawn).mean(0), torch.stack(drawn).std(0) / 20**0.5
    # 27² entries, of which hardly one is more than six standard errors off.
    assert ((mean - exact).abs() <= 6 * spread + 1e-12).all()
    assert (drawn[0] - exact).norm() > 1e-3 * exact.norm()


def test_draws_are_frozen_and_come_from_rng_alone() -> None:
    model = mlp()
    state = torch.get_rng_state()

    def fisher(rng: int | None, memory: str | None = None) -> hesse.Fisher:
        return hesse.Fisher(model, F.cross_entropy, loader(X, CLASSES), samples=1, rng=rng, memory=memory)

    first = fisher(0)
    matrix = first.to_dense()
    torch.testing.assert_close(first.to_dense(), matrix, rtol=0, atol=0)
    torch.testing.assert_close(first.at().to_dense(), matrix)
    torch.testing.assert_close(fisher(0, "2200B").to_dense(), matrix)
    assert not torch.allclose(fisher(1).to_dense(), matrix)
    assert not torch.allclose(fisher(None).to_dense(), fisher(None).to_dense())
    assert torch.equal(torch.get_rng_state(), state)
    # One draw has one outer product a row.
    assert torch.linalg.matrix_rank(matrix) <= 10


def test_a_loss_whose_distribution_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="Fisher needs the distribution of targets that the loss means"):
        hesse.Fisher(mlp(), lambda f, y: F.cross_entropy(f, y), (X, CLASSES))
    with pytest.raises(ValueError, match="not known with weight or pos_weight"):
        hesse.Fisher(mlp(), nn.BCEWithLogitsLoss(pos_weight=WEIGHT), (X, BITS)).to_dense()
    with pytest.raises(ValueError, match="not known with both weight and label_smoothing"):
        hesse.Fisher(mlp(), nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), (X, CLASSES)).to_dense()
    with pytest.raises(ValueError, match="samples given to Fisher should be at least 1 but is 0"):
        hesse.Fisher(mlp(), F.cross_entropy, (X, CLASSES), samples=0)


TOKENS = inputs(5, 4, 4), torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(4))


def of_tokens(loss: Callable[[Tensor, Tensor], Tensor], c: float) -> Tensor:
    """c·Σ Jᵀ·E·J over the tokens of all rows, by the unreduced loss of one."""
    model, (x, _) = mlp(), TOKENS
    J = references.jacobian(model, lambda call: call(x)).flatten(0, 1)
    classes = [torch.tensor(y) for y in range(3)]
    E = [expectation(loss, classes, f) for f in model(x).detach().flatten(0, 1)]
    return c * torch.einsum("nci,ncd,ndj->ij", J, torch.stack(E), J)


@pytest.mark.parametrize("options", [{"weight": WEIGHT}, {"label_smoothing": 0.6}], ids=["weighted", "smoothed"])
def test_tokens_of_a_row_are_drawn_apart(options: dict[str, Any]) -> None:
    """Scores of weighted or smoothed losses have means, so that products of two tokens' scores would not vanish."""
    x, y = TOKENS
    c = 1 / float(WEIGHT[y].sum() if "weight" in options else y.numel())
    expected = of_tokens(lambda f, y: F.cross_entropy(f[None], y[None], reduction="sum", **options), c)
    loss = nn.CrossEntropyLoss(**options)
    drawn = hesse.Fisher(Sequences(), loss, loader(x, y, batch_size=3), samples=4000, rng=0)
    assert (drawn.to_dense() - expected).norm() < 0.05 * expected.norm()
    assert_equal(hesse.Fisher(Sequences(), loss, loader(x, y, batch_size=3)), expected)


def test_a_sample_without_a_batch_is_one_draw() -> None:
    model = mlp()
    expected = hesse.Fisher(model, F.cross_entropy, (X[:4], CLASSES[:4])).to_dense()
    drawn = hesse.Fisher(model, F.cross_entropy, list(zip(X[:4], CLASSES[:4], strict=True)), samples=20_000, rng=0)
    assert (drawn.to_dense() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("samples", [None, 20_000])
@pytest.mark.parametrize(("loss", "each"), [(F.mse_loss, 2), (F.l1_loss, 1)])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_prediction_may_have_several_targets(loss: Callable[..., Tensor], each: int, samples: int | None) -> None:
    """Independent targets of one prediction: their information adds up."""
    model = nn.Linear(4, 1).double()
    y = inputs(10, 5, seed=6)
    J = references.jacobian(model, lambda call: call(X)[:, 0])
    expected = each * 5 * J.T @ J / 50
    fisher = hesse.Fisher(model, loss, loader(X, y), samples=samples, rng=0).to_dense()
    assert (fisher - expected).norm() < (1e-12 if samples is None else 0.05) * expected.norm()


@pytest.mark.parametrize("reduction", [None, "sum"])
def test_weights_of_batches_are_no_counts_of_terms(reduction: str | None) -> None:
    """The unreduced loss is PyTorch's, however the losses of batches are put together."""
    model, (x, y) = Sequences(), TOKENS
    fisher = hesse.Fisher(
        model, F.cross_entropy, loader(x, y, batch_size=3), weight=lambda batch: len(batch[0]), reduction=reduction
    )
    one = functools.partial(F.cross_entropy, reduction="sum")
    if reduction is None:
        assert_equal(fisher, of_tokens(lambda f, y: one(f[None], y[None]), 1 / 20))
    else:
        parts = [hesse.Fisher(model, F.cross_entropy, batch).to_dense() for batch in loader(x, y, batch_size=3)]
        assert_equal(fisher, parts[0] + parts[1])
    squared = hesse.Fisher(mlp(), F.mse_loss, loader(X, REAL), weight=lambda batch: len(batch[0]))
    assert_equal(squared, by_definition(mlp(), lambda n, f: 2 * torch.eye(3, dtype=torch.float64), 1 / 30))


def test_a_sum_of_batches_has_the_scale_of_their_losses() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), mlp()).double()
    fisher = hesse.Fisher(model, F.cross_entropy, loader(X, CLASSES), batch_norm="per batch", reduction="sum")
    parts = [hesse.GaussNewton(model, F.cross_entropy, batch).to_dense() for batch in loader(X, CLASSES)]
    assert_equal(fisher, sum(parts))
