"""Sums of padded pieces, rewritten stretch by stretch: the numbers stay, and no piece is padded any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import hesse
from hesse._linearize.program.passes.stencils import split_stencils
from hesse._linearize.program.stand_ins import new_mode
from tests.functional.test_compiled_functions import HAS_COMPILER

aten = torch.ops.aten


def padded(x: Tensor, shape: list[int], dim: int, start: int) -> Tensor:
    zeros = aten.full.default(shape, 0, dtype=x.dtype)
    return aten.slice_scatter.default(zeros, x, dim, start, start + x.shape[dim])


def neighbors(x: Tensor, v: Tensor) -> Tensor:
    slope = 2 * (x[1:] - x[:-1] ** 2) * v[:-1]
    return padded(-slope, [10], 0, 0) + padded(slope * x[1:], [10], 0, 1)


def with_a_whole_term(x: Tensor, v: Tensor) -> Tensor:
    return padded(v[2:] * x[2:], [10], 0, 2) + x * v + padded((v[:7] - 1).sin(), [10], 0, 3)


def with_a_gap(x: Tensor, v: Tensor) -> Tensor:
    return padded(v[:2], [10], 0, 0) + padded(x[:3], [10], 0, 7)


def twice_the_same(x: Tensor, v: Tensor) -> Tensor:
    piece = padded(v[1:] * x[:-1], [10], 0, 1)
    return piece + piece


def used_beside(x: Tensor, v: Tensor) -> Tensor:
    inner = padded(v[1:], [10], 0, 1) + padded(x[1:], [10], 0, 0)
    return inner + padded(v[:5], [10], 0, 5) + inner.sum()


def of_a_sum_that_is_no_piece(x: Tensor, v: Tensor) -> Tensor:
    return padded(torch.cumsum(v, 0)[1:], [10], 0, 0) + padded(x[:9] * v.sum(), [10], 0, 1)


def in_two_dimensions(x: Tensor, v: Tensor) -> Tensor:
    x, v = x.repeat(4, 1), v.repeat(4, 1) * torch.arange(4)[:, None]
    down = padded((x[1:] - x[:-1]) * v[1:], [4, 10], 0, 1) + padded(v[:3], [4, 10], 0, 0)
    right = padded(x[:, 1:] * v[:, :-1], [4, 10], 1, 1) + padded(padded(v[1:3, :5], [4, 5], 0, 2), [4, 10], 1, 0)
    return down + right


def counted_from_the_end(x: Tensor, v: Tensor) -> Tensor:
    x, v = x.repeat(4, 1), v.repeat(4, 1) * torch.arange(4)[:, None]
    slope = aten.slice.Tensor(x * v, -1, 1, 10) - v[:, :-1]
    return padded(slope * x[:, 1:], [4, 10], -1, 1) + padded(-slope, [4, 10], -1, 0)


def with_broadcast_factors(x: Tensor, v: Tensor) -> Tensor:
    grid = x[:, None] * v[None, :]
    return padded(grid[1:] * v, [10, 10], 0, 0) + padded(grid[:-1] * x[:9, None], [10, 10], 0, 1)


FUNCTIONS = [
    neighbors,
    with_a_whole_term,
    with_a_gap,
    twice_the_same,
    used_beside,
    of_a_sum_that_is_no_piece,
    in_two_dimensions,
    counted_from_the_end,
    with_broadcast_factors,
]


@pytest.mark.parametrize("func", FUNCTIONS)
@pytest.mark.one_in(4)
def test_the_numbers_stay_and_nothing_is_padded(func: Callable[..., Tensor]) -> None:
    x = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mode = new_mode()
    with mode:
        stand_ins = [torch.empty(10, dtype=torch.float64) for _ in range(2)]
        graph = make_fx(func)(*stand_ins)
    rewritten = split_stencils(graph)
    torch.testing.assert_close(rewritten(x, v), func(x, v))
    if func not in (in_two_dimensions,):
        assert not rewritten.graph.find_nodes(op="call_function", target=aten.slice_scatter.default)


def test_what_is_no_such_sum_is_left_as_it_is() -> None:
    mode = new_mode()
    with mode:
        stand_ins = [torch.empty(10)]
        graph = make_fx(lambda x: x + padded(x[1:], [10], 0, 0) * 2)(*stand_ins)
    assert split_stencils(graph) is graph


def chain(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def second_differences(x: Tensor) -> Tensor:
    return ((x[2:] - 2 * x[1:-1] + x[:-2]) ** 4).sum() + (x**3).sum()


def total_variation(x: Tensor) -> Tensor:
    image = x.reshape(6, 5)
    across, down = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    return torch.sqrt(across[:, 1:] ** 2 + down[1:] ** 2 + 0.1).sum()


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
@pytest.mark.parametrize("func", [chain, second_differences, total_variation])
@pytest.mark.exhaustive
def test_compiled_products_are_those_of_the_dense_hessian(func: Callable[[Tensor], Any]) -> None:
    x = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dense = torch.autograd.functional.hessian(func, x)
    H = hesse.Hessian(func, x, engine="compiled")
    V = torch.randn(30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.stack([H @ v for v in V.mT], 1), dense @ V)
    torch.testing.assert_close(hesse.Hessian(func, x, engine="compiled", batching="vmap") @ V, dense @ V)
