"""Factors of large tensors that are computed once: which are, and that the numbers stay."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import hesse
from hesse._linearize.program.passes.small_factors import hold_small_factors
from hesse._linearize.program.stand_ins import new_mode
from tests.functional.test_compiled_functions import HAS_COMPILER

HELD = {
    "power": lambda x, v: x * (v + 1).pow(-0.5)[:, None],
    "root": lambda x, v: x * (v + 1).sqrt().reciprocal()[:, None],
    "product of factors": lambda x, v: (x - v[:, None]) * (v.rsqrt() * v)[:, None],
    "expanded": lambda x, v: v.exp()[:, None].expand(20, 6, 5) * x,
    "in front": lambda x, v: v.tanh() + x.mT,
}
LEFT = {
    "cheap": lambda x, v: x * (2 * v + 1)[:, None],
    "constant along the last dimensions": lambda x, v: x[:6, 0] * v.sqrt()[:, None],
    "alone": lambda x, v: v.sqrt(),
    "as large": lambda x, v: x.exp() * x,
    "not much smaller": lambda x, v: x[:1, :, :1].mT * v.sqrt(),
    "of a sum": lambda x, v: x * x.exp().sum((0, 2))[:, None],
}


def rewritten(func: Callable[[Tensor, Tensor], Tensor]) -> tuple[torch.fx.GraphModule, int]:
    with new_mode():
        graph = make_fx(func)(torch.empty(20, 6, 5), torch.empty(6))
    hold_small_factors(graph)
    return graph, len(graph.graph.find_nodes(op="call_function", target=torch.ops._inductor_test.realize.default))


@pytest.mark.private
@pytest.mark.parametrize("name", [*HELD, *LEFT])
def test_costly_functions_of_small_tensors_are_computed_before_they_are_repeated(name: str) -> None:
    func = (HELD | LEFT)[name]
    graph, num_held = rewritten(func)
    assert num_held == (name in HELD)
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(20, 6, 5, generator=generator), torch.rand(6, generator=generator)
    torch.testing.assert_close(graph(x, v), func(x, v), rtol=0, atol=0)


@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.exhaustive
def test_compiled_products_through_batch_norm_are_right(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    net = nn.Sequential(*layers).double().eval()
    for layer in (layers[1], layers[4]):
        layer.running_mean.normal_(std=0.1)
        layer.running_var.uniform_(0.5, 1.5)
    images = torch.randn(4, 2, 6, 6, dtype=torch.float64).to(memory_format=memory_format)
    parameters = tuple(parameter.detach() for parameter in net.parameters())
    names = [name for name, _ in net.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (images,)).square().mean()

    v = tuple(torch.randn_like(parameter) for parameter in parameters)
    # PyTorch's double backward, operator by operator.
    expected = torch.autograd.functional.vhp(loss, parameters, v)[1]
    for expect in (1, None):
        H = hesse.Hessian(loss, parameters, engine="compiled", expect=expect)
        torch.testing.assert_close(H @ v, expected)


@pytest.mark.private
@pytest.mark.skipif(not HAS_COMPILER, reason="programs are compiled by a C++ compiler")
def test_a_kernel_computes_a_held_power_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.graph import GraphLowering

    from hesse._linearize.program import inductor

    written: list[str] = []
    monkeypatch.setattr(GraphLowering, "save_output_code", staticmethod(written.append))
    for rewrite in (lambda graph: graph, hold_small_factors):
        with new_mode():
            graph = make_fx(lambda x, v: [x * (v + 1.25).pow(-0.5)[:, None]])(torch.empty(20, 6, 5), torch.empty(6))
        inductor.compile(rewrite(graph))
    without, held = [len(set(re.findall(r"out_ptr\d+", code))) for code in written]
    # The power has a result of its own.
    assert (without, held) == (1, 2)
