"""Products of matrices in a compiled program, by oneDNN or by PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hesse
from hesse._base import onednn
from hesse._linearize.program import inductor
from hesse._linearize.program.passes.matrix_products import multiply_by_onednn

from . import programs

pytestmark = pytest.mark.skipif(not onednn.available, reason="this build of PyTorch has no oneDNN")

WIDTH, ROWS = 128, 256


@pytest.fixture(params=[True, False], ids=["fast here", "not fast here"])
def fast_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(onednn, "fast_here", lambda: request.param)
    return bool(request.param)


def loss(X: Tensor, head: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda weight: ((X @ weight).tanh() @ head).square().mean()


def point(dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    X, weight, head, v = [
        torch.randn(*shape, dtype=torch.float64)
        for shape in ((ROWS, WIDTH), (WIDTH, WIDTH), (WIDTH, 3), (WIDTH, WIDTH))
    ]
    return loss(X.to(dtype), head.to(dtype)), (0.1 * weight).to(dtype), v.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_program_multiplies_by_oneDNN_where_that_is_faster_and_stays_right(
    dtype: torch.dtype, fast_here: bool
) -> None:
    names: list[str] = []

    def compile(graph: Any) -> Any:
        multiply_by_onednn(graph)
        names.extend(str(node.target) for node in graph.graph.nodes)
        return lambda given: graph(*given)

    func, weight, v = point(dtype)
    H = programs.hessian(func, weight, backend=programs.compiling(compile))
    ours = H @ v
    assert H.explain().engine == "compiled"
    assert ("hesse.mm.default" in names) == (fast_here and dtype is torch.float32)
    wide, wide_weight, wide_v = point(torch.float64)
    expected = torch.autograd.functional.vhp(wide, wide_weight, wide_v)[1]
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    assert (ours.double() - expected).norm() <= tolerance * expected.norm()


def test_inductor_is_given_the_faster_products(fast_here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def compile_fx_inner(graph: Any, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return lambda given: graph(*given)

    monkeypatch.setattr(inductor, "compile_fx_inner", compile_fx_inner)
    func, weight, v = point(torch.float32)
    hesse.Hessian(func, weight, engine="compiled") @ v
    assert ("hesse.mm.default" in seen) == fast_here


@pytest.mark.parametrize(("threads", "expected"), [(1, 0), (2, 2)])
def test_a_matrix_and_a_vector_are_multiplied_by_all_threads(
    threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "fast_here", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    names: list[str] = []

    def compile(graph: Any) -> Any:
        multiply_by_onednn(graph)
        names.extend(str(node.target) for node in graph.graph.nodes)
        return lambda given: graph(*given)

    torch.manual_seed(0)
    X, y, bias = torch.randn(2**14, 64), torch.randn(2**14, 1), torch.randn(1)
    weight, v = torch.randn(2, 1, 64)

    def loss(weight: Tensor) -> Tensor:
        return (torch.nn.functional.linear(X.to(weight.dtype), weight, bias.to(weight.dtype)) - y).exp().mean()

    H = programs.hessian(loss, weight / 8, backend=programs.compiling(compile))
    ours = H @ v
    first = [name for name in names if "mm" in name]
    assert first.count("hesse.mm.default") == 2 * expected
    assert ("aten.addmm.default" in first) == (not expected)
    wide = torch.autograd.functional.vhp(loss, weight.double() / 8, v.double())[1]
    assert (ours.double() - wide).norm() <= 1e-5 * wide.norm()


def test_the_operator_says_what_its_result_looks_like() -> None:
    a, b = torch.randn(5, 3), torch.randn(7, 3).mT
    torch.library.opcheck(torch.ops.hesse.mm.default, (a, b), test_utils=("test_schema", "test_faketensor"))
