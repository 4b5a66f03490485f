"""Some rows of a matrix: beside the dense one, within memory, of every kind of operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hesse

X = torch.linspace(-1, 1, 40, dtype=torch.float64)
PLACES = [[], [3], [0, -1, 7, 7], list(range(40)), slice(2, 33, 3), torch.tensor([5, 1])]


def energy(x: Tensor) -> Tensor:
    return (x.unsqueeze(0) * x.unsqueeze(1)).sin().sum() + x.pow(4).sum()


def wide(x: Tensor) -> Tensor:
    return torch.stack([x.prod(), x.sin().sum(), x @ x]) * x[:3].cos()


def tall(x: Tensor) -> Tensor:
    return torch.cat([x[:3].sin(), x[:3].outer(x[:12]).flatten()])[:40] * x.sum()


HESSIAN = torch.func.hessian(energy)(X)


def expected(matrix: Tensor, places: Any) -> Tensor:
    return matrix[list(range(len(matrix)))[places] if isinstance(places, slice) else torch.as_tensor(places).long()]


@pytest.mark.parametrize("engine", ["tape", "compiled"])
@pytest.mark.parametrize("batching", ["loop", "vmap", "auto"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.one_in(13)
def test_rows_of_a_hessian(places: Any, batching: Any, engine: Any) -> None:
    H = hesse.Hessian(energy, X, batching=batching, engine=engine)
    torch.testing.assert_close(H.rows(places), expected(HESSIAN, places))


@pytest.mark.parametrize("places", PLACES)
def test_rows_of_a_jacobian_and_of_its_transpose(places: Any) -> None:
    J = hesse.Jacobian(tall, X)
    matrix = torch.func.jacrev(tall)(X)
    usable = (
        places if not isinstance(places, list) else [place % len(matrix) for place in places if place < len(matrix)]
    )
    torch.testing.assert_close(J.rows(usable), expected(matrix, usable))
    torch.testing.assert_close(J.T.rows(places), expected(matrix.mT, places))
    torch.testing.assert_close(hesse.Jacobian(wide, X).rows([2, 0]), torch.func.jacrev(wide)(X)[[2, 0]])


def test_rows_of_sums_blocks_and_losses_over_data() -> None:
    H = hesse.Hessian(energy, X)
    torch.testing.assert_close((2 * H + H.shift(1.0)).rows([4]), 3 * HESSIAN[[4]] + torch.eye(40)[[4]].double())
    model = torch.nn.Linear(3, 2).double()
    data = [(torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)) for _ in range(2)]
    L = hesse.LossHessian(model, torch.nn.functional.mse_loss, data)
    dense = L.to_dense()
    torch.testing.assert_close(L.rows([1, -2]), dense[[1, 6]])
    block = L.block("weight", "bias")
    torch.testing.assert_close(block.rows([5, 0]), dense[:6, 6:][[5, 0]])


def test_what_rows_take_stays_within_memory() -> None:
    def spread(x: Tensor) -> Tensor:
        return (x.repeat(64, 1).sin() * x.cos()).pow(2).sum()

    x = torch.linspace(0, 1, 2048, dtype=torch.float64)
    H = hesse.Hessian(spread, x, memory="20MiB", batching="vmap", engine="tape")
    places = list(range(0, 2048, 16))
    found = H.rows(places)
    diagonal = 128 * torch.cos(4 * x)
    torch.testing.assert_close(found, torch.diag(diagonal)[places], atol=1e-10, rtol=1e-10)
    assert 1 <= H.explain().chunk < 16
    with pytest.raises(hesse.MemoryBudgetError):
        hesse.Hessian(spread, x, memory="1MiB", engine="tape").rows(places)


@pytest.mark.parametrize("place", [40, -41])
def test_a_row_that_is_not_there_is_refused(place: int) -> None:
    with pytest.raises(IndexError, match=f"Row {place} was asked of a matrix that has 40"):
        hesse.Hessian(energy, X).rows([0, place])


def test_rows_are_differentiable_with_create_graph() -> None:
    x = X.clone().requires_grad_()
    row = hesse.Hessian(lambda x: (x**3).sum(), x, create_graph=True).rows([3])
    (slope,) = torch.autograd.grad(row.sum(), x)
    torch.testing.assert_close(slope, 6 * torch.eye(40, dtype=torch.float64)[3])


@pytest.mark.parametrize("places", [[True], torch.tensor([True] * 40), torch.tensor([1.7]), [0.5], "a"])
def test_places_that_are_no_whole_numbers_are_refused(places: Any) -> None:
    with pytest.raises(TypeError, match="Rows are asked for by whole numbers but got"):
        hesse.Hessian(energy, X).rows(places)
