"""Of a problem over data, ``hesse check`` finds what a later batch alone has, and names the batch and the line."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hesse
from hesse._checking.over_data import check_problem

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


class Net(nn.Module):
    """Twice differentiable, but for what ``odd`` makes of the hidden layer of some batch."""

    def __init__(self, odd: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.odd = nn.Linear(3, 4), nn.Linear(4, 3), odd

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).tanh()
        return self.second(hidden if self.odd is None else self.odd(x, hidden))


def pairs(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.clone().split(sizes), Y.clone().split(sizes), strict=True))


def checked(odd: Any, data: Any, loss: Any = None) -> hesse.Check:
    return check_problem(hesse.Problem(model=Net(odd), loss=loss or nn.CrossEntropyLoss(), data=data), rng=0)


@pytest.mark.exhaustive
def test_where_all_batches_are_well_the_odd_ones_were_examined() -> None:
    report = checked(None, pairs(4, 4, 2, 2))
    assert report.ok
    assert (report.batches, report.examined) == (4, (0, 2, 3))
    assert "batches               4 evaluated, examined: 0, 2, 3\n" in str(report)
    assert report.value == pytest.approx(nn.functional.cross_entropy(Net()(X[:4]), Y[:4]).item(), rel=1e-6)


@pytest.mark.exhaustive
def test_no_more_than_three_other_layouts_and_the_last_batch_are_examined() -> None:
    lone = [(x[None], y[None]) for x, y in zip(X, Y, strict=True)]
    lengths = [(X[:n], Y[:n]) for n in (6, 5, 4, 3, 2, 1)]
    assert checked(None, lone).examined == (0, 11)
    assert checked(None, lengths).examined == (0, 1, 2, 3, 5)


def cut_in_short_batches(x: Tensor, hidden: Tensor) -> Tensor:
    return hidden * hidden.detach() if len(x) < 4 else hidden


def cut_in_the_last(x: Tensor, hidden: Tensor) -> Tensor:
    return hidden * hidden.detach() if torch.equal(x, X[8:]) else hidden


@pytest.mark.parametrize(
    ("odd", "sizes", "batch"), [(cut_in_short_batches, (4, 3, 5), 1), (cut_in_the_last, (4, 4, 4), 2)]
)
@pytest.mark.one_in(2)
def test_what_one_batch_alone_cuts_off_is_named_with_its_line(odd: Any, sizes: tuple[int, ...], batch: int) -> None:
    report = checked(odd, pairs(*sizes))
    assert not report.ok
    (finding,) = report.findings
    assert (finding.kind, finding.operator) == ("cut off", "Tensor.detach")
    assert finding.sentence.startswith(f"Batch {batch}: Tensor.detach cuts the output off from the inputs.")
    assert finding.line == inspect.getsourcelines(odd)[1] + 1


def test_a_batch_in_the_middle_that_is_not_finite_is_examined() -> None:
    data = pairs(4, 4, 4)
    data[1][0][2] = torch.inf
    (finding,) = checked(lambda x, hidden: hidden + 0 * x.sum(), data).findings
    assert finding.kind == "not finite"
    assert finding.sentence.startswith("Batch 1: ")


def test_a_batch_of_which_nothing_counts_is_well() -> None:
    data = pairs(4, 4, 4)
    data[1] = (data[1][0], torch.full_like(data[1][1], -100))
    report = checked(None, data)
    assert report.ok
    assert report.examined == (0, 2)


def test_a_later_batch_that_raises_is_a_finding() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    report = check_problem(hesse.Problem(model=model, loss=nn.CrossEntropyLoss(), data=pairs(4, 4, 3, 1)), rng=0)
    (finding,) = report.findings
    assert finding.kind == "raises"
    assert finding.sentence.startswith("Batch 3: ValueError: Expected more than 1 value per channel when training")
    assert int(model[1].num_batches_tracked) == 0


def test_what_the_first_batch_has_is_said_once() -> None:
    report = checked(lambda x, hidden: hidden * hidden.detach(), pairs(4, 5, 3))
    assert [finding.sentence[:5] for finding in report.findings] == ["Tenso"]
    assert report.examined == (0,)
