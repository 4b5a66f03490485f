"""Scattering by an index that is shorter than its source, and products in forward mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values
from tests.linearize import programs

from .judge import assert_as_written_out, vectors_like

INDEX = torch.tensor([[0, 2], [1, 1]])
ONES = torch.ones(3, 3, dtype=DOUBLE)
X = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
Function = Callable[[Tensor], Tensor]

# Of a source that may be longer than the index.
SCATTER: dict[str, Function] = {
    "scatter_add": lambda y: ONES.scatter_add(1, INDEX, y),
    "scatter_add_": lambda y: ONES.clone().scatter_add_(1, INDEX, y),
    "scatter": lambda y: ONES.scatter(1, INDEX, y),
    "scatter_": lambda y: ONES.clone().scatter_(1, INDEX, y),
    "scatter_reduce": lambda y: ONES.scatter_reduce(0, INDEX, y, "mean"),
    "scatter_reduce_": lambda y: ONES.clone().scatter_reduce_(0, INDEX, y, "sum"),
}


def pair(name: str) -> tuple[Function, Function]:
    """The function, and the same with a source as long as the index."""
    scatter = SCATTER[name]
    return (
        lambda x: scatter(x**2).sin().sum(),
        lambda x: scatter(x[:2, :2] ** 2).sin().sum(),
    )


@pytest.mark.parametrize("name", SCATTER)
def test_products_are_those_of_a_source_that_is_cut(name: str) -> None:
    func, same = pair(name)
    (v,) = vectors_like((X,))
    expected = torch.autograd.functional.vhp(same, X, v)[1]
    for product in (hesse.vhp(func, X, v)[1], hesse.hvp(func, X, v)[1], hesse.func.hvp(func)(X, v)):
        assert_values(product, expected)
    for batching in ("loop", "vmap"):
        H = hesse.Hessian(func, X, batching=batching)
        assert_values((H @ torch.stack([v.reshape(-1)] * 20, 1))[:, 3].reshape(X.shape), expected)
    assert_values(programs.hessian(func, X) @ v, expected)
    rows = torch.vmap(lambda v: hesse.vhp(func, X, v)[1])(torch.stack([v, 2 * v]))
    assert_values(rows, torch.stack([expected, 2 * expected]))
    point = X.clone().requires_grad_()
    third = [
        torch.autograd.grad((product(point, v) * v).sin().sum(), point)[0]
        for product in (
            lambda x, v: hesse.vhp(func, x, v, create_graph=True)[1],
            lambda x, v: torch.autograd.functional.vhp(same, x, v, create_graph=True)[1],
        )
    ]
    assert_values(*third)


def test_sums_have_their_closed_form() -> None:
    index = torch.tensor([0, 2])
    x = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    dense = hesse.Hessian(lambda x: torch.zeros(3, dtype=DOUBLE).scatter_add(0, index, x**3).sum(), x).to_dense()
    assert_values(dense, torch.diag(torch.tensor([6.0, 12.0, 0.0], dtype=DOUBLE)))


PLACES = torch.tensor([[0, 2, 0], [1, 1, 1]])


def factors(y: Tensor, include_self: bool) -> Tensor:
    """The products that stand where ``PLACES`` puts the factors along the second dimension of ones and threes."""
    rows = []
    for i, places in enumerate(PLACES.tolist()):
        for j in range(3):
            here = [y[i, k] for k, place in enumerate(places) if place == j]
            start = [BASE[i, j]] if include_self or not here else []
            rows.append(torch.stack([*start, *here]).prod())
    return torch.cat([torch.stack(rows), BASE[2]]).reshape(3, 3)


BASE = ONES + torch.arange(9.0, dtype=DOUBLE).reshape(3, 3)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_products_of_entries_are_right_in_forward_mode(include_self: bool, in_place: bool) -> None:
    def func(x: Tensor) -> Tensor:
        scatter = BASE.clone().scatter_reduce_ if in_place else BASE.scatter_reduce
        return scatter(1, PLACES, x.sin(), "prod", include_self=include_self).sin().sum()

    assert_as_written_out(func, lambda x: factors(x.sin(), include_self).sin().sum(), (X,), programs=False)


def test_pytorch_has_the_wrong_tangent_of_products() -> None:
    scatter = lambda x: torch.ones(2, dtype=DOUBLE).scatter_reduce(0, torch.tensor([0, 0]), x, "prod")  # noqa: E731  # a function in one line
    x, v = torch.tensor([[2.0, 3.0], [1.0, 1.0]], dtype=DOUBLE)
    assert not torch.allclose(torch.func.jvp(scatter, (x,), (v,))[1], torch.tensor([5.0, 0.0], dtype=DOUBLE))


def test_pytorch_has_no_gradient_there() -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="returned an invalid gradient"):
        torch.autograd.grad(SCATTER["scatter_add"](x).sum(), x)
