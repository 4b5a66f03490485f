"""CTC: both forms of targets, of lengths, blanks, reductions, and losses that are infinite."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hesse
from hesse._rules.ctc_loss import cudnn_ctc_loss
from tests.functional.references import DOUBLE, assert_values

from . import judge
from .judge import refusal, vectors_like

# PyTorch's loss asks for the memory of its inputs, which tensors of torch.func's transforms do not have.
assert_right = functools.partial(judge.assert_right, transforms=False)
assert_thrice_differentiable = functools.partial(judge.assert_thrice_differentiable, transforms=False)

STEPS, CLASSES = 5, 4
ROWS = torch.tensor([[1, 2, 2], [3, 1, -7]])
"""Two targets, one with a label twice in a row; the second is shorter."""
LENGTHS = [3, 2]
INPUTS = [5, 4]

FORMS: dict[str, tuple[Tensor, Any, Any]] = {
    "rows": (ROWS, INPUTS, LENGTHS),
    "one line": (torch.tensor([1, 2, 2, 3, 1]), INPUTS, LENGTHS),
    "lengths as tensors": (ROWS, torch.tensor(INPUTS), torch.tensor(LENGTHS)),
    "an empty target": (ROWS, INPUTS, [3, 0]),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def through_the_loss(form: str = "rows", **options: Any) -> Callable[[Tensor], Tensor]:
    targets, inputs, lengths = FORMS[form]

    def func(x: Tensor) -> Tensor:
        loss = F.ctc_loss(x.log_softmax(2), targets, inputs, lengths, **options)
        return (loss.sin() * torch.arange(1.0, loss.numel() + 1, dtype=DOUBLE).reshape(loss.shape)).sum()

    return func


def by_enumeration(log_probs: Tensor, target: list[int], blank: int = 0) -> Tensor:
    """The loss of one sample, (t, classes), as the sum over all sequences of classes that collapse to the target."""
    ways = []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        collapsed = [label for label, _ in itertools.groupby(path) if label != blank]
        if collapsed == target:
            ways.append(sum(log_probs[t, label] for t, label in enumerate(path)))
    return -torch.stack(ways).logsumexp(0)


def test_pytorch_has_no_second_derivative() -> None:
    assert "aten::_ctc_loss_backward" in refusal(through_the_loss(), (draw(STEPS, 2, CLASSES),))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.one_in(8)
def test_products_agree_with_differences_of_the_gradient(reduction: str, form: str) -> None:
    assert_right(through_the_loss(form, reduction=reduction), (draw(STEPS, 2, CLASSES),))


@pytest.mark.parametrize("options", [{"blank": 3}, {"zero_infinity": True}], ids=str)
@pytest.mark.one_in(2)
def test_blank_and_zero_infinity_are_taken_in(options: dict[str, Any]) -> None:
    if "blank" in options:
        targets = torch.tensor([[1, 2, 2], [0, 1, 0]])
        loss = lambda x: F.ctc_loss(x.log_softmax(2), targets, INPUTS, LENGTHS, **options)  # noqa: E731  # a function in one line
        assert_right(lambda x: loss(x).sin(), (draw(STEPS, 2, CLASSES),))
    else:
        assert_right(through_the_loss(**options), (draw(STEPS, 2, CLASSES),))


def test_log_probabilities_that_are_not_normalized_follow_pytorchs_gradient() -> None:
    # With no function behind the loss: PyTorch's gradient is that of another function than its value.
    assert_right(lambda x: F.ctc_loss(x, *FORMS["rows"], reduction="sum"), (draw(STEPS, 2, CLASSES),))


def test_third_derivatives_agree_with_differences_of_products() -> None:
    assert_thrice_differentiable(through_the_loss(), (draw(STEPS, 2, CLASSES),))


@pytest.mark.parametrize("target", [[1, 2], [1, 1], [2]], ids=str)
def test_the_product_is_that_of_the_sum_over_all_alignments(target: list[int]) -> None:
    x, v = draw(4, 3), draw(4, 3, seed=1)
    expected = torch.autograd.functional.vhp(lambda x: by_enumeration(x.log_softmax(1), target), x, v)[1]
    loss = lambda x: F.ctc_loss(x.log_softmax(1), torch.tensor(target), (4,), (len(target),), reduction="sum")  # noqa: E731  # a function in one line
    assert_values(hesse.vhp(loss, x, v)[1], expected)


def test_a_target_without_an_alignment_counts_for_nothing_where_infinity_is_zero() -> None:
    # Three labels, two of them equal in a row, need four steps; the second sample has only three.
    def loss(x: Tensor) -> Tensor:
        targets = torch.tensor([[1, 2], [2, 2]])
        return F.ctc_loss(x.log_softmax(2), targets, [4, 2], [2, 2], reduction="sum", zero_infinity=True)

    x, v = draw(4, 2, 3), draw(4, 2, 3, seed=1)
    product = hesse.vhp(loss, x, v)[1]
    alone = lambda x: by_enumeration(x.log_softmax(1), [1, 2])  # noqa: E731  # a function in one line
    assert_values(product[:, 0], torch.autograd.functional.vhp(alone, x[:, 0], v[:, 0])[1])
    assert not product[:, 1].any()


def test_without_that_the_product_is_not_taken_for_a_number() -> None:
    loss = lambda x: F.ctc_loss(x.log_softmax(2), torch.tensor([[2, 2]]), [2], [2], reduction="sum")  # noqa: E731  # a function in one line
    assert hesse.vhp(loss, draw(2, 1, 3), draw(2, 1, 3))[1].isnan().any()


def test_cudnns_rule_is_the_loss() -> None:
    """There is no such device here: that PyTorch calls this operator on one cannot be seen, only what the rule is."""
    x = draw(STEPS, 2, CLASSES).log_softmax(2)
    v = vectors_like((x,))[0]
    losses = lambda x: cudnn_ctc_loss(x.log_softmax(2), FORMS["one line"][0], INPUTS, LENGTHS, 0, True, False)[0]  # noqa: E731  # a function in one line
    assert_values(losses(x), F.ctc_loss(x, *FORMS["one line"], reduction="none"))
    expected = hesse.vhp(through_the_loss(reduction="none"), x, v)[1]
    weighted = lambda x: (losses(x).sin() * torch.tensor([1.0, 2.0])).sum()  # noqa: E731  # a function in one line
    assert_values(torch.autograd.functional.vhp(weighted, x, v)[1], expected)
