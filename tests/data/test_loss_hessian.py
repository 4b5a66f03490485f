"""LossHessian against the dense float64 Hessian of the same loss on one large batch."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from transformers import BatchEncoding

import hesse
from tests.data import references
from tests.data.models import (
    BITS,
    CLASSES,
    REAL,
    Tied,
    WithUnused,
    X,
    generator,
    inputs,
    loader,
    mlp,
    seeded,
)


def assert_equal(H: hesse.Operator, expected: torch.Tensor) -> None:
    torch.testing.assert_close(H.to_dense(), expected, rtol=1e-11, atol=1e-13)


LOSSES = {
    "cross_entropy": (F.cross_entropy, CLASSES),
    "cross_entropy_module": (nn.CrossEntropyLoss(), CLASSES),
    "cross_entropy_sum": (nn.CrossEntropyLoss(reduction="sum"), CLASSES),
    "cross_entropy_weighted": (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.3], dtype=torch.float64)),
        CLASSES,
    ),
    "cross_entropy_smoothed": (functools.partial(F.cross_entropy, label_smoothing=0.2), CLASSES),
    "cross_entropy_ignoring": (functools.partial(F.cross_entropy, ignore_index=1), CLASSES),
    "cross_entropy_of_probabilities": (F.cross_entropy, REAL.softmax(1)),
    "mse": (nn.MSELoss(), REAL),
    "mse_sum": (functools.partial(F.mse_loss, reduction="sum"), REAL),
    "bce": (nn.BCEWithLogitsLoss(), BITS),
    "own_mean": (lambda f, y: (f - y).pow(4).sum(1).mean(), REAL),
    "own_sum": (lambda f, y: (f - y).pow(4).sum(), REAL),
    "huber": (nn.HuberLoss(), REAL),
}


@pytest.mark.parametrize("kept", ["all", "none", "cut"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.one_in(5)
def test_a_ragged_last_batch_gives_the_hessian_of_one_large_batch(name: str, kept: str) -> None:
    loss, target = LOSSES[name]
    model = mlp()
    memory = None
    if kept != "all":
        H = hesse.LossHessian(model, loss, (X[:4], target[:4]))
        H @ torch.zeros(27, dtype=torch.float64)
        # While a batch is linearized its gradient is there.
        memory = int((H.explain().bytes_kept + 27 * 8) * (3.4 if kept == "none" else 2.4))
    H = hesse.LossHessian(model, loss, loader(X, target), memory=memory)
    assert_equal(H, references.hessian(model, lambda call: loss(call(X), target)))
    value = loss(model(X), target)
    torch.testing.assert_close(H.value, value.detach())
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(H.flatten(H.gradient), gradient)
    assert H.symmetric
    explained = H.explain()
    assert (explained.kept == explained.microbatches) == (kept == "all")
    assert (explained.microbatches > 3) == (explained.rows is not None) == (kept == "cut")


@pytest.mark.parametrize("data", ["tuple", "list_of_tuples", "list_of_lists", "loader", "custom"])
def test_data_comes_in_any_form_that_can_be_gone_over_again(data: str) -> None:
    class Custom:
        def __iter__(self):
            yield X[:7], CLASSES[:7]
            yield X[7:], CLASSES[7:]

    forms = {
        "tuple": (X, CLASSES),
        "list_of_tuples": [(X[:3], CLASSES[:3]), (X[3:], CLASSES[3:])],
        "list_of_lists": [[X[:3], CLASSES[:3]], [X[3:], CLASSES[3:]]],
        "loader": loader(X, CLASSES),
        "custom": Custom(),
    }
    model = mlp()
    expected = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES))
    assert_equal(hesse.LossHessian(model, F.cross_entropy, forms[data]), expected)


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, (rows, length), generator=generator(seed))


def dictionary_loss(model: nn.Module, batch: dict) -> torch.Tensor:
    return F.cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten())


def masked_batches() -> list[dict]:
    """Dictionaries with labels masked unevenly, and a ragged last batch."""
    batches = [
        {"tokens": tokens(3, 4), "labels": tokens(3, 4, 1)},
        {"tokens": tokens(2, 4, 2), "labels": tokens(2, 4, 3)},
    ]
    batches[0]["labels"][0, 1:] = -100
    batches[1]["labels"][1, 3] = -100
    return batches


def joined(batches: list[dict]) -> dict:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def count_labels(batch: dict) -> torch.Tensor:
    return (batch["labels"] != -100).sum()


@pytest.mark.parametrize("kind", [dict, BatchEncoding])
def test_masked_tokens_are_weighted_by_a_count_of_tokens(kind: type) -> None:
    model = seeded(Tied)
    batches = masked_batches()
    H = hesse.LossHessian(model, dictionary_loss, [kind(batch) for batch in batches], weight=count_labels)
    whole = joined(batches)
    expected = references.hessian(
        model, lambda call: F.cross_entropy(call(whole["tokens"]).flatten(0, 1), whole["labels"].flatten())
    )
    assert_equal(H, expected)


def test_masked_tokens_without_a_weight_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"neither the mean nor the sum of its rows' losses.*give weight="):
        hesse.LossHessian(seeded(Tied), dictionary_loss, masked_batches())


def test_masks_that_begin_after_the_first_batch_are_refused_too() -> None:
    batches = masked_batches()
    batches[0]["labels"] = tokens(3, 4, 1)
    H = hesse.LossHessian(seeded(Tied), dictionary_loss, batches)
    with pytest.raises(ValueError, match=r"more labels masked than others.*Give weight="):
        _ = H.value


def test_masked_targets_of_pytorchs_own_loss_need_no_weight() -> None:
    model = seeded(Tied)
    whole = joined(masked_batches())
    sequences, labels = whole["tokens"], whole["labels"]

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).transpose(1, 2)

    wrapped = Transposed()
    H = hesse.LossHessian(wrapped, nn.CrossEntropyLoss(), loader(sequences, labels, batch_size=2))
    assert_equal(H, references.hessian(wrapped, lambda call: F.cross_entropy(call(sequences), labels)))


def test_a_batch_with_everything_masked_counts_nothing() -> None:
    model = mlp()
    labels = CLASSES.clone()
    labels[4:8] = -100
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, labels))
    assert_equal(H, references.hessian(model, lambda call: F.cross_entropy(call(X), labels)))


def test_tied_weights_count_once_and_are_found_by_each_name() -> None:
    model = seeded(Tied)
    batch = {"tokens": tokens(4, 3), "labels": tokens(4, 3, 1)}
    H = hesse.LossHessian(model, dictionary_loss, batch)

    def loss(call) -> torch.Tensor:
        return F.cross_entropy(call(batch["tokens"]).flatten(0, 1), batch["labels"].flatten())

    assert list(H.gradient) == ["embedding.weight", "middle.weight", "middle.bias"]
    assert_equal(H, references.hessian(model, loss))
    by_other_name = hesse.LossHessian(model, dictionary_loss, batch, params="head.weight")
    assert_equal(by_other_name, references.hessian(model, loss, ["embedding.weight"]))


def test_unused_and_frozen_parameters_have_zeros() -> None:
    model = seeded(WithUnused)
    model.used.bias.requires_grad_(False)
    H = hesse.LossHessian(model, F.cross_entropy, (X, CLASSES), params="*")
    matrix = H.to_dense()
    assert H.shape == (4 * 3 + 3 + 2 * 2 + 2,) * 2
    assert matrix[12:].abs().max() == matrix[:, 12:].abs().max() == 0
    expected = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES), ["used.weight"])
    torch.testing.assert_close(matrix[:12, :12], expected)
    assert "used.bias" not in hesse.LossHessian(model, F.cross_entropy, (X, CLASSES)).gradient


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (None, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("*.weight", ["0.weight", "2.weight"]),
        ("2", ["2.weight", "2.bias"]),
        ("0.bias", ["0.bias"]),
        (["2.bias", "0.*"], ["0.weight", "0.bias", "2.bias"]),
        (lambda name, parameter: parameter.dim() == 1, ["0.bias", "2.bias"]),
        (lambda model: model[2], ["2.weight", "2.bias"]),
        (lambda model: [model[0].weight, "2.bias"], ["0.weight", "2.bias"]),
    ],
    ids=["all", "glob", "layer's name", "name", "list", "predicate", "layer", "parameter and name"],
)
def test_params_choose_a_part_of_the_hessian(params, names: list[str], request: pytest.FixtureRequest) -> None:
    model = mlp()
    if request.node.callspec.id in ("layer", "parameter and name"):
        params = params(model)
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES), params=params)
    assert list(H.gradient) == names
    assert_equal(H, references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES), names))


def test_vectors_come_flat_in_columns_or_by_name() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    dense = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES))
    v = inputs(H.shape[1], seed=5)
    torch.testing.assert_close(H @ v, dense @ v)
    torch.testing.assert_close(H @ torch.stack([v, 2 * v], 1), dense @ torch.stack([v, 2 * v], 1))
    by_name = H @ H.unflatten(v)
    torch.testing.assert_close(by_name["2.weight"], (dense @ v)[15:24].reshape(3, 3))
    torch.testing.assert_close(H.flatten(by_name), dense @ v)


def test_blocks_are_parts_of_the_matrix() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    dense = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES))
    slices = {"0.weight": slice(0, 12), "0.bias": slice(12, 15), "2.weight": slice(15, 24), "2.bias": slice(24, 27)}
    for name, block in H.blocks().items():
        assert_equal(block, dense[slices[name], slices[name]])
        assert block.symmetric
    layers = H.blocks(by="layer")
    assert list(layers) == ["0", "2"]
    assert_equal(layers["2"], dense[15:, 15:])
    mixed = H.block("2", "0.bias")
    assert mixed.shape == (12, 3)
    assert_equal(mixed, dense[15:, 12:15])
    assert_equal(mixed.T, dense[12:15, 15:])
    product = mixed @ {"0.bias": torch.ones(3, dtype=torch.float64)}
    torch.testing.assert_close(product["2.bias"], dense[24:, 12:15].sum(1))
    with pytest.raises(KeyError, match=r"no parameter '3\.\*': it has 0\.weight"):
        H.block("3.*")
    with pytest.raises(ValueError, match="by given to blocks should be"):
        H.blocks(by="column")


def test_every_question_works_on_a_sum_over_data() -> None:
    model = mlp()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X, CLASSES))
    dense = references.hessian(model, lambda call: F.cross_entropy(call(X), CLASSES))
    top = hesse.eigsh(H, k=2, which="LA", rng=0)
    torch.testing.assert_close(top.values, torch.linalg.eigvalsh(dense).flip(0)[:2], rtol=1e-6, atol=1e-9)
    assert hesse.trace(H.shift(1.0), rng=0).estimate == pytest.approx(float(dense.trace()) + 27)
    b = inputs(27, seed=6)
    solution = hesse.solve(H.shift(1.0), b).solution
    torch.testing.assert_close(solution, torch.linalg.solve(dense + torch.eye(27).double(), b), rtol=1e-4, atol=1e-6)


def test_call_and_output_say_what_the_loss_of_a_batch_is() -> None:
    model = mlp()
    expected = references.hessian(model, lambda call: F.cross_entropy(2 * call(X), CLASSES))
    called = hesse.LossHessian(
        model,
        F.cross_entropy,
        loader(X, CLASSES),
        call=lambda model, loss, batch: loss(2 * model(batch[0]), batch[1]),
    )
    assert_equal(called, expected)
    batches = [{"x": X[:6], "y": CLASSES[:6]}, {"x": X[6:], "y": CLASSES[6:]}]
    given = hesse.LossHessian(
        model, F.cross_entropy, batches, output=lambda model, batch: (2 * model(batch["x"]), batch["y"])
    )
    assert_equal(given, expected)


def test_the_model_may_be_float32_and_vectors_too() -> None:
    model = mlp().float()
    H = hesse.LossHessian(model, F.cross_entropy, loader(X.float(), CLASSES))
    expected = references.hessian(model.double(), lambda call: F.cross_entropy(call(X), CLASSES)).float()
    model.float()
    H = H.at()
    assert H.dtype == torch.float32
    torch.testing.assert_close(H.to_dense(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("engine", ["tape", "compiled"])
def test_kept_batches_let_go_of_their_gradients(engine: str) -> None:
    model = mlp()
    loss, _ = LOSSES["own_mean"]
    H = hesse.LossHessian(model, loss, [(X[:2], REAL[:2]), (X[2:], REAL[2:])], engine=engine)
    (first,) = H._point.kept_terms()
    gradients = [StorageWeakRef(leaf.untyped_storage()) for leaf in first.gradient]
    del first
    found = H.flatten(H.gradient)
    assert all(reference.expired() for reference in gradients)
    kept = H._point.kept_terms()
    assert len(kept) == 2
    # The first products are compared with single ones, and blocks take some leaves of the gradient.
    assert_equal(H, references.hessian(model, lambda call: loss(call(X), REAL)))
    names = [name for name, _ in model.named_parameters()]
    size = H.block(names[0]).shape[0]
    assert_equal(H.block(names[0]), references.hessian(model, lambda call: loss(call(X), REAL))[:size, :size])
    value = loss(model(X), REAL)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(found, gradient)
    torch.testing.assert_close(H.flatten(H.gradient), gradient)


def test_a_first_pass_that_was_broken_goes_on_and_adds_every_batch_once() -> None:
    model = mlp()
    breaks = []

    def loss(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if breaks:
            raise OSError("once")
        return F.mse_loss(f, y)

    H = hesse.LossHessian(model, loss, [(X[:2], REAL[:2]), (X[2:5], REAL[2:5]), (X[5:], REAL[5:])])
    breaks.append("the second batch")
    with pytest.raises(OSError, match="once"):
        H @ torch.ones(27, dtype=torch.float64)
    breaks.clear()
    value = F.mse_loss(model(X), REAL)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(model.parameters()))])
    torch.testing.assert_close(H.flatten(H.gradient), gradient)
    torch.testing.assert_close(H.value, value.detach())
