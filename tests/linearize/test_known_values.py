"""Programs read values that depend on captured tensors alone, and read them anew at each point."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import hesse
from tests.functional.references import DOUBLE

from . import programs

Function = Callable[[Tensor], Tensor]

X = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]], dtype=DOUBLE)
V = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.5, 3.0]], dtype=DOUBLE)
_number = torch.tensor(2)
_mask = torch.tensor([[True, False, True], [False, True, True]])
_counts = torch.tensor([2, 1])
_flags = torch.tensor([0.0, 1.0, 0.0])
_state = torch.tensor([1.0, 2.0])


def reads_a_number(x: Tensor) -> Tensor:
    return (x ** (_number.item() + 1)).sum()


def branches(x: Tensor) -> Tensor:
    return (x**3).sum() if _mask.all() else (x**4).sum()


def selects(x: Tensor) -> Tensor:
    return (x[_mask] ** 3).sum() + x.masked_select(_mask[0]).sin().sum()


def writes_where(x: Tensor) -> Tensor:
    y = x.sin()
    y[_mask] = 0.5
    return (y**3).sum()


def repeats(x: Tensor) -> Tensor:
    return (x.repeat_interleave(_counts, 0).cumsum(0) ** 3).sum()


def makes_a_mask(x: Tensor) -> Tensor:
    """As libraries make theirs: filled, written in part, inverted, asked."""
    mask = torch.full((2, 3), -1.0)
    mask[:, 1:] = _flags[:2]
    mask.mul_(2.0)
    if (mask == 0).any():
        x = x.masked_fill(mask > 0, 0.5)
    return (x**3).sum()


def takes_places(x: Tensor) -> Tensor:
    rows, columns = torch.where(_mask)
    places = rows * 3 + columns
    places += 0
    return (x.flatten()[places] ** 3).sum() * len(places)


def lists_places(x: Tensor) -> Tensor:
    places = torch.where(_mask[0])[0].tolist()
    return (x[:, places] ** 3).sum()


def splits(x: Tensor) -> Tensor:
    first, second = x.flatten()[:3].split(_counts.tolist())
    return (first**3).sum() + (second**4).sum()


CHANGES: dict[Function, Callable[[], object]] = {
    reads_a_number: lambda: _number.add_(1),
    branches: lambda: _mask.logical_or_(torch.tensor(True)),
    selects: lambda: _mask.logical_not_(),
    writes_where: lambda: _mask.logical_not_(),
    repeats: lambda: _counts.copy_(_counts.flip(0)),
    makes_a_mask: lambda: _flags.copy_(_flags.flip(0) - 1),
    takes_places: lambda: _mask.logical_not_(),
    lists_places: lambda: _mask.copy_(torch.tensor([False, False, True])),
    splits: lambda: _counts.copy_(_counts.flip(0)),
}


@pytest.fixture(autouse=True)
def _values_are_put_back() -> Iterator[None]:
    kept = [(tensor, tensor.clone()) for tensor in (_number, _mask, _counts, _flags, _state)]
    yield
    for tensor, value in kept:
        tensor.copy_(value)


def product(func: Function, x: Tensor) -> Tensor:
    return torch.autograd.functional.vhp(func, x, V)[1]


@pytest.mark.parametrize("func", CHANGES, ids=lambda func: func.__name__)
@pytest.mark.private
@pytest.mark.one_in(4)
def test_values_that_change_at_a_new_point_are_read_anew(func: Function) -> None:
    """Nothing compares a program that serves a second time with the tape here."""
    H = programs.hessian(func, X, verify=False)
    torch.testing.assert_close(H @ V, product(func, X))
    torch.testing.assert_close(H.at(X + 0.1) @ V, product(func, X + 0.1))
    before = product(func, X + 0.2)
    CHANGES[func]()
    expected = product(func, X + 0.2)
    assert not torch.equal(before, expected)
    with programs.running(programs.EAGER):
        torch.testing.assert_close(H.at(X + 0.2) @ V, expected)


@pytest.mark.parametrize("func", [selects, writes_where, takes_places], ids=lambda func: func.__name__)
def test_a_program_serves_masks_with_as_many_entries(func: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    H = programs.hessian(func, X, verify=False)

    def captured_again(*args: object) -> None:
        raise AssertionError("a new program")

    monkeypatch.setattr("hesse._linearize.program.making.capture", captured_again)
    _mask.copy_(_mask.flip(0))
    torch.testing.assert_close(H.at(X) @ V, product(func, X))


def writes_into_what_it_captures(x: Tensor) -> Tensor:
    _state[0] += x.detach().sum()
    return (x**3).sum() * _state[0].item()


def writes_into_a_view(x: Tensor) -> Tensor:
    known = torch.zeros(3, dtype=DOUBLE)
    known[1:].copy_(x.detach()[0, 1:])
    return (x**3).sum() * known.sum().item()


def assigns_data(x: Tensor) -> Tensor:
    known = torch.zeros(3, dtype=DOUBLE)
    known.data = x.detach()[0]
    return (x**3).sum() * known.sum().item()


def writes_by_out(x: Tensor) -> Tensor:
    known = torch.zeros(3, dtype=DOUBLE)
    torch.add(x.detach()[0], 1, out=known)
    return (x**3).sum() * known.sum().item()


def normalizes(x: Tensor) -> Tensor:
    mean = torch.zeros(3, dtype=DOUBLE)
    y = torch.nn.functional.batch_norm(x.detach(), mean, torch.ones(3, dtype=DOUBLE), training=True)
    return (x**3 * y).sum() * mean.sum().item()


def draws(x: Tensor) -> Tensor:
    return (x**3).sum() * torch.zeros(3).normal_().sum().item()


def reads_a_scattered(x: Tensor) -> Tensor:
    known = torch.zeros(3, dtype=DOUBLE)
    known.index_put_((torch.tensor([1]),), x.detach()[0, :1])
    return (x**3).sum() * known[1].item()


@pytest.mark.parametrize(
    "func",
    [
        writes_into_what_it_captures,
        writes_into_a_view,
        assigns_data,
        writes_by_out,
        normalizes,
        draws,
        reads_a_scattered,
    ],
    ids=lambda func: func.__name__,
)
def test_values_that_depend_on_more_are_refused(func: Function) -> None:
    with pytest.raises(hesse.CaptureError, match=r"aten\._local_scalar_dense"):
        programs.hessian(func, X)


class Experts(nn.Module):
    """Each row goes to the expert that its last entry names."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(3, 2) for _ in range(3)])

    def forward(self, rows: Tensor) -> Tensor:
        result = rows.new_zeros(len(rows), 2)
        for i, expert in enumerate(self.experts):
            places = (rows[:, -1] == i).nonzero().squeeze(1)
            if places.numel():
                result = result.index_add(0, places, expert(rows[places, :3]).tanh())
        return result


def chosen(*experts: int) -> Tensor:
    return torch.cat((torch.randn(len(experts), 3, dtype=DOUBLE), torch.tensor(experts, dtype=DOUBLE)[:, None]), 1)


def test_batches_with_other_values_get_what_is_theirs() -> None:
    torch.manual_seed(0)
    model = Experts().double()
    rows = [chosen(*experts) for experts in [(0, 1, 2, 0), (2, 0, 0, 1), (1, 1, 1, 1), (2, 2, 0, 1)]]
    data = [(batch, torch.randn(len(batch), 2, dtype=DOUBLE)) for batch in rows]
    v = torch.randn(sum(parameter.numel() for parameter in model.parameters()), dtype=DOUBLE)
    loss = nn.MSELoss(reduction="sum")
    with programs.running(programs.EAGER):
        H = hesse.LossHessian(model, loss, data, engine="compiled", verify=False)
        ours = [H @ v, H @ v]
    tree = nn.utils.parameters_to_vector(model.parameters()).detach()

    def total(flat: Tensor) -> Tensor:
        split = flat.split([parameter.numel() for parameter in model.parameters()])
        named = {
            name: part.view_as(parameter)
            for (name, parameter), part in zip(model.named_parameters(), split, strict=True)
        }
        return sum((loss(torch.func.functional_call(model, named, (x,)), y) for x, y in data), torch.zeros(()))

    expected = torch.autograd.functional.vhp(total, tree, v)[1]
    for product in ours:
        torch.testing.assert_close(product, expected)


def test_lists_of_a_batch_are_not_those_of_the_first() -> None:
    """``tolist`` reads memory past PyTorch's dispatcher."""
    model = nn.Linear(3, 1, bias=False).double()
    data = [(torch.randn(4, 3, dtype=DOUBLE), torch.full((4,), i)) for i in (1, 2, 3)]
    with programs.running(programs.EAGER):
        H = hesse.LossHessian(
            model, lambda z, y: z.square().sum() * y.tolist()[0], data, engine="compiled", reduction="sum"
        )
        # Another value, another program.
        dense = H.to_dense()
    torch.testing.assert_close(dense, sum(2 * y[0] * x.mT @ x for x, y in data))
