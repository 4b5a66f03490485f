"""Sums of matrix products in a compiled program: added by the elementwise kernels that read them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import hesse
from hesse._linearize.program.passes.sums_of_products import add_products_in_kernels

from . import programs


class Calls(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def perceptron(x: Tensor, target: Tensor) -> Any:
    """A loss of two layers with biases, and of their weights alone in a sum that only a product reads."""

    def loss(first: Tensor, bias: Tensor, second: Tensor) -> Tensor:
        hidden = torch.nn.functional.linear(x, first, bias).tanh()
        return (hidden @ second - target).square().mean()

    return loss


def problem(dtype: torch.dtype) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    torch.manual_seed(0)
    drawn = [torch.randn(*shape, dtype=torch.float64) for shape in ((9, 5), (9, 3), (7, 5), (7,), (7, 3))]
    vectors = tuple(torch.randn_like(leaf).to(dtype) for leaf in drawn[2:])
    x, target, *leaves = [leaf.to(dtype) for leaf in drawn]
    return perceptron(x, target), tuple(leaves), vectors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_product_that_a_kernel_reads_is_added_by_addmm_and_results_stay_right(dtype: torch.dtype) -> None:
    seen: list[Any] = []

    def compile(graph: Any) -> Any:
        add_products_in_kernels(graph)
        seen.extend(graph.graph.nodes)
        return lambda given: graph(*given)

    func, leaves, v = problem(dtype)
    H = programs.hessian(func, leaves, backend=programs.compiling(compile))
    ours = torch.cat([part.flatten() for part in H @ v])
    assert H.explain().engine == "compiled"
    targets = [str(node.target) for node in seen]
    # The layer's own sum, and the two products of each tangent with what it multiplies.
    assert "aten.addmm.default" not in targets
    assert targets.count("aten.sub.Tensor") >= 3
    wide, wide_leaves, wide_v = problem(torch.float64)
    expected = torch.autograd.functional.vhp(wide, wide_leaves, wide_v)[1]
    reference = torch.cat([part.flatten() for part in expected])
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    assert (ours.double() - reference).norm() <= tolerance * reference.norm()


def test_sums_that_no_kernel_reads_and_other_kinds_of_sums_are_left() -> None:
    def traced(function: Any, *given: Tensor) -> list[str]:
        graph = make_fx(function, tracing_mode="fake")(*given)
        before = graph(*given)
        add_products_in_kernels(graph)
        assert torch.equal(graph(*given), before)
        return [str(node.target) for node in graph.graph.nodes]

    a, b, c = torch.randn(3, 4, 4)
    counts = torch.arange(4)
    # Each is read by a product, or by nobody; scaled; or of another dtype.
    assert "aten.sub.Tensor" not in traced(lambda a, b, c: torch.addmm(c, a, b) @ c, a, b, c)
    assert "aten.sub.Tensor" not in traced(lambda a, b, c: a @ b + c, a, b, c)
    assert "aten.sub.Tensor" not in traced(lambda a, b, c: torch.addmm(c, a, b, beta=2).tanh(), a, b, c)
    assert "aten.sub.Tensor" not in traced(lambda a, b, c: torch.add(a @ b, c, alpha=2).tanh(), a, b, c)
    assert "aten.sub.Tensor" not in traced(lambda a, b, c: (a @ b + c).tanh(), a, b, counts)
    assert "aten.sub.Tensor" not in traced(lambda a, b, c: (a @ b + 1).tanh(), a, b, c)
    # Through a view.
    assert "aten.sub.Tensor" in traced(lambda a, b, c: (a @ b + c).view(2, 8).tanh(), a, b, c)


def test_inductor_makes_no_addmm_of_them_again() -> None:
    func, leaves, v = problem(torch.float32)
    H = hesse.Hessian(func, leaves, engine="compiled")
    ours = torch.cat([part.flatten() for part in H @ v])
    with Calls() as calls:
        again = torch.cat([part.flatten() for part in H @ v])
    assert "aten.mm.out" in calls.names
    # The result for ``second``, a sum of two products, which no kernel reads.
    assert len([name for name in calls.names if "addmm" in name]) == 1
    wide, wide_leaves, wide_v = problem(torch.float64)
    reference = torch.cat([part.flatten() for part in torch.autograd.functional.vhp(wide, wide_leaves, wide_v)[1]])
    for found in (ours, again):
        assert (found.double() - reference).norm() <= 1e-5 * reference.norm()
