"""Sums that Inductor is slow at: which are replaced, and that the numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import hesse
from hesse._linearize.program.passes.reductions import join_sums, sum_outer_dimensions
from hesse._linearize.program.stand_ins import new_mode
from tests.functional.test_compiled_functions import HAS_COMPILER

REPLACED = {
    "middle": lambda x: x.sum(1),
    "first, kept": lambda x: x.sum(0, keepdim=True),
    "two": lambda x: x.sum((0, 1)),
    "from the end": lambda x: x.sum(-2),
}
LEFT = {
    "last": lambda x: x.sum(-1),
    "all": lambda x: x.sum((0, 1, 2)),
    "another dtype": lambda x: x.sum(1, dtype=torch.float64),
    "few": lambda x: x[:2, :2].sum(1),
    "long": lambda x: x.reshape(30, 10, 24).sum(1),
    "of a number": lambda x: torch.ops.aten.sum.dim_IntList(x[0, 0, 0], [0]),
}


def rewritten(func: Callable[[Tensor], Tensor]) -> torch.fx.GraphModule:
    with new_mode():
        graph = make_fx(func)(torch.empty(60, 40, 3))
    sum_outer_dimensions(graph)
    return graph


@pytest.mark.parametrize("name", REPLACED)
def test_sums_over_all_but_a_short_last_dimension_are_replaced(name: str) -> None:
    x = torch.randn(60, 40, 3, generator=torch.Generator().manual_seed(0))
    graph = rewritten(REPLACED[name])
    torch.testing.assert_close(graph(x), REPLACED[name](x))
    assert graph.graph.find_nodes(op="call_function", target=torch.ops.hesse.sum.default)


@pytest.mark.parametrize("name", LEFT)
def test_other_sums_are_left(name: str) -> None:
    graph = rewritten(LEFT[name])
    assert not graph.graph.find_nodes(op="call_function", target=torch.ops.hesse.sum.default)


JOINED = {
    "one after the other": lambda x: x.sum(0).sum(1).sum(0),
    "all but one": lambda x: x.sum(0).sum(-1),
    "kept": lambda x: x.sum(-1, keepdim=True).sum((0, 1), keepdim=True),
    "of the rest": lambda x: x.sum(1).sum(),
}
APART = {
    "kept once": lambda x: x.sum(0, keepdim=True).sum(1),
    "another dtype": lambda x: x.sum(0).sum(0, dtype=torch.float64),
    "used twice": lambda x: (lambda inner: inner.sum(0) + inner.mean(0))(x.sum(0)),
}


@pytest.mark.parametrize("name", [*JOINED, *APART])
def test_sums_of_sums_are_one_sum(name: str) -> None:
    func = (JOINED | APART)[name]
    with new_mode():
        graph = make_fx(func)(torch.empty(6, 4, 3))
    before = len(graph.graph.find_nodes(op="call_function", target=torch.ops.aten.sum.dim_IntList))
    join_sums(graph)
    after = len(graph.graph.find_nodes(op="call_function", target=torch.ops.aten.sum.dim_IntList))
    assert after == (1 if name in JOINED else before)
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(graph(x), func(x))
    assert graph(x).shape == func(x).shape


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
@pytest.mark.exhaustive
def test_compiled_products_of_a_sum_over_pairs_are_right() -> None:
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def energy(x: Tensor) -> Tensor:
        return torch.exp(-((x[:, None] - x[None]) ** 2).sum(-1)).sum()

    dense = torch.autograd.functional.hessian(energy, x).reshape(120, 120)
    H = hesse.Hessian(energy, x, engine="compiled")
    V = torch.randn(120, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.stack([H @ v for v in V.mT], 1), dense @ V)
    torch.testing.assert_close(hesse.Hessian(energy, x, engine="compiled", batching="vmap") @ V, dense @ V)
