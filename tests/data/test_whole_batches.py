"""Models that work with their batch as a whole only: graphs, stored states, exported programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hesse

X = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(10, 3)
Y = torch.tensor([0, 1] * 5)
ADJACENCY = torch.linspace(0, 1, 100, dtype=torch.float64).reshape(10, 10).cos()
EDGES = torch.tensor([[0, 1, 2, 9], [1, 2, 0, 3]])


def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


class Dense(nn.Module):
    """A layer of a graph network, by a dense adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head()

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(pair[1] @ pair[0])


class Sized(nn.Module):
    """A model that refuses any other number of rows than ten."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 10:
            raise RuntimeError("ten rows, please")
        return self.head(x)


class Edges(nn.Module):
    """A layer of a graph network, by a list of edges."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.head(torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


def of_edges(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"], batch["edges"]), batch["y"])


GATHERED = torch.zeros_like(X).index_add(0, EDGES[1], X[EDGES[0]])
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, Tensor]] = {
    "adjacency": (Dense, nn.CrossEntropyLoss(), ((X, ADJACENCY), Y), ADJACENCY @ X),
    "fixed size": (Sized, nn.CrossEntropyLoss(), (X, Y), X),
    "edges": (Edges, of_edges, {"x": X, "edges": EDGES, "y": Y}, GATHERED),
}


def dense(x: Tensor) -> Tensor:
    """The Hessian of the mean cross entropy of a linear layer, by PyTorch."""
    model = head()

    def func(weight: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight, bias), Y)

    blocks = torch.autograd.functional.hessian(func, (model.weight.detach(), model.bias.detach()))
    sizes = [6, 2]
    rows = [torch.cat([blocks[i][j].reshape(sizes[i], sizes[j]) for j in (0, 1)], 1) for i in (0, 1)]
    return torch.cat(rows)


@pytest.mark.parametrize("told", [{}, {"reduction": "mean", "weight": lambda batch: 10}], ids=["plain", "told"])
@pytest.mark.parametrize("case", CASES)
def test_one_batch_needs_no_part_of_it(case: str, told: dict[str, Any]) -> None:
    make, loss, batch, features = CASES[case]
    H = hesse.LossHessian(make(), loss, batch, **told)
    torch.testing.assert_close(H.to_dense(), dense(features))
    assert "cannot be evaluated" in H.explain().rows_reason


def test_an_exported_program_has_its_hessian() -> None:
    exported = torch.export.export(head(), (X,)).module()
    torch.testing.assert_close(hesse.LossHessian(exported, nn.CrossEntropyLoss(), (X, Y)).to_dense(), dense(X))


def test_an_exported_program_of_any_number_of_rows_has_its_hessian() -> None:
    rows = torch.export.Dim("rows", min=2, max=64)
    exported = torch.export.export(head(), (X,), dynamic_shapes={"input": {0: rows}}).module()
    H = hesse.LossHessian(exported, nn.CrossEntropyLoss(), [(X[:4], Y[:4]), (X[4:], Y[4:])])
    torch.testing.assert_close(H.to_dense(), dense(X))


def test_several_batches_are_put_together_as_the_loss_says() -> None:
    H = hesse.LossHessian(Sized(), nn.CrossEntropyLoss(), [(X, Y), (-X, Y)])
    torch.testing.assert_close(H.to_dense(), (dense(X) + dense(-X)) / 2)


def test_a_loss_that_does_not_say_is_asked_for() -> None:
    def loss(f: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(f, y)

    with pytest.raises(
        ValueError, match=r"a part of its first batch \(.*ten rows, please\).* Give reduction= and"
    ) as e:
        hesse.LossHessian(Sized(), loss, [(X, Y), (-X, Y)])
    assert "\n" not in str(e.value)
    told = hesse.LossHessian(Sized(), loss, [(X, Y), (-X, Y)], reduction="mean", weight=lambda batch: 10)
    torch.testing.assert_close(told.to_dense(), (dense(X) + dense(-X)) / 2)


def test_what_fails_on_the_whole_batch_is_the_users_own_error() -> None:
    with pytest.raises(RuntimeError, match=r"^ten rows, please$"):
        hesse.LossHessian(Sized(), nn.CrossEntropyLoss(), [(X[:8], Y[:8]), (X, Y)])
