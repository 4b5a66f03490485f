"""Sums at places: products of programs against dense Hessians, and that nothing is added in another order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hesse
from hesse._linearize.program import capture
from hesse._linearize.program.passes.scatter_adds import sort_scatter_adds
from tests.functional.test_compiled_functions import HAS_COMPILER
from tests.linearize import programs

FIRST = torch.tensor([0, 0, 3, 1, 2, 0, 3])
SECOND = torch.tensor([1, 2, 1, 2, 3, 3, 0])


def pairs(x: Tensor) -> Tensor:
    return ((x[FIRST] - x[SECOND]) ** 4).sum()


def at_two_dimensions(x: Tensor) -> Tensor:
    return (x[FIRST, SECOND % 3] ** 3 * torch.arange(7)).sum()


def at_broadcast_places(x: Tensor) -> Tensor:
    return (x[FIRST[:, None], SECOND[None, :3] % 3] ** 3).sum()


def from_the_end(x: Tensor) -> Tensor:
    return (x[FIRST - 4] ** 3).sum() + (x[-1] * x[0]).sum()


def of_a_dimension_in_the_middle(x: Tensor) -> Tensor:
    return (x[:, SECOND % 3] ** 3).sum()


def embedded(x: Tensor) -> Tensor:
    return (torch.nn.functional.embedding(FIRST, x) ** 3).sum() + torch.nn.functional.embedding(SECOND, x).prod()


def added_at(x: Tensor) -> Tensor:
    sums = torch.zeros(4, 3, dtype=x.dtype).index_add(0, SECOND, x[FIRST] ** 2)
    return (sums**2).sum()


def gathered(x: Tensor) -> Tensor:
    return (x.gather(0, torch.stack([FIRST, SECOND, FIRST], 1)) ** 3).sum()


FUNCTIONS = [
    pairs,
    at_two_dimensions,
    at_broadcast_places,
    from_the_end,
    of_a_dimension_in_the_middle,
    embedded,
    added_at,
    gathered,
]
X = torch.linspace(-1, 1.3, 12, dtype=torch.float64).reshape(4, 3)


@pytest.mark.parametrize("func", FUNCTIONS)
@pytest.mark.one_in(4)
def test_products_are_those_of_the_dense_hessian(func: Callable[[Tensor], Tensor]) -> None:
    dense = torch.autograd.functional.hessian(func, X).reshape(12, 12)
    H = programs.hessian(func, X)
    torch.testing.assert_close(H @ torch.eye(12, dtype=torch.float64), dense)
    moved = H.at(2 * X)
    torch.testing.assert_close(moved.to_dense(), torch.autograd.functional.hessian(func, 2 * X).reshape(12, 12))


@pytest.mark.parametrize("func", FUNCTIONS)
@pytest.mark.one_in(7)
def test_many_vectors_at_once_are_right_too(func: Callable[[Tensor], Tensor]) -> None:
    dense = torch.autograd.functional.hessian(func, X).reshape(12, 12)
    V = torch.randn(12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(programs.hessian(func, X, batching="vmap") @ V, dense @ V)


def test_places_are_read_anew_at_each_point() -> None:
    places = torch.tensor([0, 1, 1])

    def func(x: Tensor) -> Tensor:
        return (x[places] ** 3).sum()

    x = torch.ones(3, dtype=torch.float64)
    H = programs.hessian(func, x)
    torch.testing.assert_close(H @ x, torch.tensor([6.0, 12.0, 0.0], dtype=torch.float64))
    places.copy_(torch.tensor([2, 2, 2]))
    torch.testing.assert_close(H.at(x) @ x, torch.tensor([0.0, 0.0, 18.0], dtype=torch.float64))


def test_places_are_sorted_once_a_point_and_no_replay_adds_in_place() -> None:
    H = programs.hessian(pairs, X)
    H @ X
    (program,) = H._point.engines.programs_of("gradient").programs
    replay = {node.target for node in program.parts.replays["rmatvec"].graph.graph.nodes}
    assert torch.ops.hesse.add_segments.default in replay
    assert torch.ops.hesse.order_indices.default not in replay
    assert torch.ops.aten.index_put.default not in replay


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "columns"), [(7, 1), (7, 3), (0, 2), (7, 0)])
def test_segments_are_summed_as_index_add_sums_them(dtype: torch.dtype, count: int, columns: int) -> None:
    indices = torch.tensor([4, 0, 4, 2, 2, 4, 1])[:count]
    rows = torch.arange(count * columns, dtype=dtype).reshape(columns, count).T
    order, starts = torch.ops.hesse.order_indices(indices, 6)
    expected = torch.zeros(6, columns, dtype=dtype).index_add(0, indices, rows)
    assert torch.equal(torch.ops.hesse.add_segments(rows, order, starts), expected)
    # Those of one number keep their order, so that sums round as they did.
    assert torch.equal(order, indices.argsort(stable=True))


def test_a_graph_without_such_sums_is_left_as_it_is() -> None:
    def gradient(leaves: tuple[Tensor, ...]) -> tuple[list[Tensor], None]:
        (x,) = leaves
        return list(torch.autograd.grad((x**3).sum(), (x,), create_graph=True)), None

    joint = capture.capture(gradient, [X], {}, ("rmatvec",), {})
    assert sort_scatter_adds(joint.graph) is joint.graph


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
def test_compiled_products_are_the_same_to_the_bit_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(50, (2, 20_000), generator=generator)
    x = torch.randn(50, 3, generator=generator)

    def energy(x: Tensor) -> Tensor:
        return torch.exp(-((x[first] - x[second]) ** 2).sum(-1)).sum()

    H = hesse.Hessian(energy, x, engine="compiled")
    product = H @ x
    torch.testing.assert_close(product, hesse.vhp(energy, x, x)[1], rtol=1e-4, atol=1e-3)
    assert all(torch.equal(H @ x, product) for _ in range(20))
