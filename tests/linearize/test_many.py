"""Many vectors through a program at once, beside dense double backward in float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from hesse._linearize.compiled_linearization import CompiledLinearization
from hesse._linearize.program.backends import EAGER, INDUCTOR, Backend
from hesse._linearize.program.program import Program
from hesse._linearize.protocol import Selection
from tests.functional.test_compiled_functions import HAS_COMPILER

from . import programs
from .own_clock import OwnClock

DOUBLE = torch.float64
COUNT = 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


MATRIX, ROWS, PLACES = draw(6, 7, seed=1), draw(9, 6, seed=2), torch.tensor([0, 3, 3, 5, 1, 0, 3])
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elementwise": lambda x: (x.sin() * x.exp()).sum(),
    "slices counted from the end": lambda x: (x[1:] * x[:-1] ** 2).sum() + (x[-3:-1] ** 3).sum(),
    "every second entry": lambda x: (x[::2] ** 3).sum(),
    "written at places": lambda x: (x.index_add(0, PLACES, x[PLACES] ** 2) ** 2).sum(),
    "gathered": lambda x: (x[PLACES] ** 3).sum(),
    "gathered along rows": lambda x: (x.reshape(2, 6)[:, PLACES] ** 3).sum(),
    "a matrix that all vectors share": lambda x: (ROWS @ x[:6]).tanh().square().sum(),
    "shared on the right": lambda x: (x[:6].reshape(1, 6).expand(4, 6) @ MATRIX).exp().mean(),
    "products of two that depend on vectors": lambda x: (x.reshape(2, 6) @ x.reshape(6, 2)).square().sum(),
    "batched products": lambda x: (x.reshape(2, 2, 3) @ x.reshape(2, 3, 2) @ x.reshape(2, 2, 3)).sum(),
    "views of views": lambda x: (x.view(3, 4).T.reshape(2, 6).softmax(0) ** 2).sum(),
    "convolution": lambda x: F.conv1d(x.reshape(1, 2, 6), MATRIX[:4, :6].reshape(2, 2, 6)[:, :, :3]).square().sum(),
    "layer norm": lambda x: F.layer_norm(x.reshape(3, 4), (4,)).pow(3).sum(),
    "attention": lambda x: F.scaled_dot_product_attention(*x.reshape(3, 1, 1, 2, 2)).pow(3).sum(),
    "flipped": lambda x: (x.flip(0) * x.reshape(3, 4).flip(0, 1).reshape(12).exp()).square().sum(),
    "linear in part": lambda x: x[:4].sum() + (x[4:] ** 2).prod(),
}


def products(func: Callable[[Tensor], Tensor], x: Tensor, V: Tensor, backend: Backend) -> Tensor:
    H = programs.hessian(func, x, backend=backend)
    return H._point.term.linearizations[0].rmatvec([V], Selection((0,), (0,)), batched=True)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.one_in(7)
def test_many_vectors_at_once_are_each_multiplied_rightly(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    x, V = 0.3 * draw(12), draw(COUNT, 12, seed=3)
    with sdpa_kernel(SDPBackend.MATH):
        # PyTorch's fused kernel has no second derivative.
        dense = torch.autograd.functional.hessian(FUNCTIONS[name], x)
    torch.testing.assert_close(products(FUNCTIONS[name], x, V, EAGER), V @ dense, rtol=1e-9, atol=1e-9)
    # PyTorch says so, in some releases from C++, of operators that it batches sample by sample.
    assert not re.search("batching rule for (hesse|prims)::", capfd.readouterr().err)


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
@pytest.mark.parametrize(
    "name",
    ["written at places", "gathered along rows", "slices counted from the end", "a matrix that all vectors share"],
)
@pytest.mark.one_in(6)
def test_inductors_programs_for_many_vectors_are_right(name: str) -> None:
    x, V = 0.3 * draw(12), draw(COUNT, 12, seed=3)
    expected = V @ torch.autograd.functional.hessian(FUNCTIONS[name], x)
    torch.testing.assert_close(products(FUNCTIONS[name], x, V, INDUCTOR), expected, rtol=1e-9, atol=1e-9)


def test_a_shared_matrix_is_multiplied_once() -> None:
    products_seen: list[str] = []

    def compile(graph: torch.fx.GraphModule) -> Callable[[list[Tensor]], list[Tensor]]:
        calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        products_seen[:] = [name for name in calls if "mm" in name]
        return lambda given: graph(*given)

    func = lambda x: (x @ MATRIX).tanh().square().sum()  # noqa: E731  # a function in one line
    x, V = draw(4, 6), draw(COUNT, 4, 6, seed=3)
    found = products(func, x, V, programs.compiling(compile))
    assert products_seen == ["aten.mm.default"] * 2
    dense = torch.autograd.functional.hessian(func, x).reshape(24, 24)
    torch.testing.assert_close(found.reshape(COUNT, 24), V.reshape(COUNT, 24) @ dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batching", ["vmap", "auto"])
def test_columns_go_through_a_program_sixteen_at_a_time_and_the_rest_singly(
    batching: Literal["vmap", "auto"], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int | None] = []
    replay = Program.replay

    def counted(self: Program, direction: Any, kept: Any, vectors: Any, count: int | None = None) -> list[Tensor]:
        counts.append(count)
        return replay(self, direction, kept, vectors, count)

    monkeypatch.setattr(Program, "replay", counted)
    # By our own clock sixteen vectors take as long as one; what compiling took is real time.
    OwnClock(monkeypatch)
    monkeypatch.setattr(CompiledLinearization, "batch_price", 0.0)
    func, x, V = FUNCTIONS["gathered"], draw(12), draw(12, 70, seed=3)
    dense = torch.autograd.functional.hessian(func, x)
    H = programs.hessian(func, x, batching=batching)
    for _ in range(2):
        counts.clear()
        torch.testing.assert_close(H @ V, dense @ V, rtol=1e-9, atol=1e-9)
    assert H.explain().batching == "vmap"
    assert H.explain().chunk == 16
    assert counts == [16] * 4 + [None] * 6


@pytest.mark.parametrize(
    ("width", "expect", "batching"), [(16, None, "loop"), (20, None, "vmap"), (16, 20, "vmap"), (16, 19, "loop")]
)
@pytest.mark.one_in(4)
def test_a_batch_is_compiled_where_single_products_would_take_as_long(
    width: int, expect: int | None, batching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product takes half a second, and compiling a batch ten, which 20 products pay for."""
    OwnClock(monkeypatch)
    monkeypatch.setattr(CompiledLinearization, "batch_price", 10.0)
    func, x, V = FUNCTIONS["gathered"], draw(12), draw(12, width, seed=3)
    H = programs.hessian(func, x, expect=expect)
    dense = torch.autograd.functional.hessian(func, x)
    torch.testing.assert_close(H @ V, dense @ V, rtol=1e-9, atol=1e-9)
    assert H.explain().batching == batching
