"""Scattering by an index that is shorter than its source, and products of what is scattered."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse
from tests.functional.references import DOUBLE, assert_values
from tests.linearize import programs

from .judge import assert_as_written_out, vectors_like

# PyTorch says so of index_reduce.
pytestmark = pytest.mark.filterwarnings("ignore:index_reduce\\(\\) is in beta:UserWarning")

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
@pytest.mark.one_in(3)
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


def factors(y: Tensor, include_self: bool, index: Tensor = PLACES) -> Tensor:
    """The products that stand where an index puts the factors along the second dimension of ``BASE``."""
    rows = []
    for i, places in enumerate(index.tolist()):
        for j in range(3):
            here = [y[i, k] for k, place in enumerate(places) if place == j]
            start = [BASE[i, j]] if include_self or not here else []
            rows.append(math.prod([*start, *here]))
    return torch.cat([torch.stack(rows), BASE[2]]).reshape(3, 3)


BASE = ONES + torch.arange(9.0, dtype=DOUBLE).reshape(3, 3)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_products_of_entries_are_right_in_forward_mode(include_self: bool, in_place: bool) -> None:
    def func(x: Tensor) -> Tensor:
        scatter = BASE.clone().scatter_reduce_ if in_place else BASE.scatter_reduce
        return scatter(1, PLACES, x.sin(), "prod", include_self=include_self).sin().sum()

    assert_as_written_out(func, lambda x: factors(x.sin(), include_self).sin().sum(), (X,), programs=False)


ZEROS = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=DOUBLE)
"""Places of ``PLACES`` and of ``ALONG`` get two and three of them."""
ALONG = torch.tensor([0, 2, 0])


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", ["scatter_reduce", "index_reduce"])
@pytest.mark.one_in(3)
def test_products_of_zeros_are_right(name: str, include_self: bool, in_place: bool) -> None:
    places = PLACES if name == "scatter_reduce" else ALONG.expand(2, 3)

    def product(y: Tensor) -> Tensor:
        base = BASE[:2].clone() if in_place else BASE[:2]
        index = places if name == "scatter_reduce" else ALONG
        reduce = getattr(base, f"{name}_" if in_place else name)
        return reduce(1, index, y, "prod", include_self=include_self)

    def func(x: Tensor) -> Tensor:
        return (product(x.sin() + x**2) + x).sin().sum()

    def written(x: Tensor) -> Tensor:
        return (factors(x.sin() + x**2, include_self, places)[:2] + x).sin().sum()

    assert_as_written_out(func, written, (ZEROS,), programs=False)
    expected = torch.autograd.functional.hessian(written, ZEROS)
    assert_values(hesse.functional.jacobian(torch.func.grad(func), ZEROS), expected)
    assert_values(hesse.functional.hessian(func, ZEROS), expected)


def test_a_product_of_zeros_for_one_number() -> None:
    x = torch.zeros(2, dtype=DOUBLE)
    one, place = torch.ones((), dtype=DOUBLE), torch.tensor(0)
    hessian = hesse.functional.hessian(lambda x: one.index_reduce(0, place, x[0], "prod") * x[1], x)
    assert_values(hessian, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=DOUBLE))


def test_pytorch_refuses_products_of_zeros_and_has_wrong_ones_in_transforms() -> None:
    index, x = torch.tensor([0, 0]), torch.zeros(2, dtype=DOUBLE)
    for name in ("scatter_reduce", "index_reduce"):
        func = lambda x, name=name: getattr(torch.ones(1, dtype=DOUBLE), name)(0, index, x, "prod").sum()  # noqa: E731  # a function in one line
        with pytest.raises(RuntimeError, match="Double backward is unsupported"):
            torch.autograd.functional.hessian(func, x)
        theirs = torch.autograd.functional.jacobian(torch.func.grad(func), x)
        assert not theirs.any(), "the entries beside the diagonal are ones"


def test_pytorch_has_the_wrong_tangent_of_products() -> None:
    scatter = lambda x: torch.ones(2, dtype=DOUBLE).scatter_reduce(0, torch.tensor([0, 0]), x, "prod")  # noqa: E731  # a function in one line
    x, v = torch.tensor([[2.0, 3.0], [1.0, 1.0]], dtype=DOUBLE)
    assert not torch.allclose(torch.func.jvp(scatter, (x,), (v,))[1], torch.tensor([5.0, 0.0], dtype=DOUBLE))


def test_pytorch_has_no_gradient_there() -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="returned an invalid gradient"):
        torch.autograd.grad(SCATTER["scatter_add"](x).sum(), x)
