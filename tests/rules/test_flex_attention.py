"""FlexAttention is refused by name, where PyTorch's second derivatives through it are silently wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

import hesse
from hesse import functional
from hesse._rules import flex_attention as rule


class Flex(torch.autograd.Function):
    """A function whose backward calls FlexAttention's, which runs on no machine that these tests have run on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.higher_order.flex_attention_backward(x, cotangent)
        return gradient


@pytest.fixture(autouse=True)
def _gradient_of_a_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the kernel; what PyTorch says about its derivative is PyTorch's own."""
    operator = torch.ops.higher_order.flex_attention_backward
    keys = torch._C.DispatchKey
    monkeypatch.setattr(type(operator), "__call__", torch._ops.HigherOrderOperator.__call__)
    monkeypatch.setitem(operator.py_kernels, keys.CPU, lambda x, cotangent: 3 * x**2 * cotangent)
    monkeypatch.setitem(operator._dispatch_cache, keys.CPU, operator.py_kernels[keys.CPU])


def func(x: Tensor) -> Tensor:
    return (Flex.apply(x) * x).sum()


def test_pytorch_leaves_out_what_it_cannot_differentiate() -> None:
    """A release in which this fails has mended it, or raises: then the rule can go."""
    x, v = torch.rand(3), torch.ones(3)
    assert not torch.allclose(torch.autograd.functional.vhp(func, x, v)[1], 12 * x**2 * v)


def test_second_derivatives_are_refused_by_name_and_line() -> None:
    x = torch.rand(3)
    for product in (hesse.vhp, hesse.hvp, lambda *args: hesse.Hessian(*args[:2]) @ x):
        with pytest.raises(hesse.NoDerivativeError, match=f"derivative for {rule.NAME} is not implemented") as caught:
            product(func, x, x)
        assert caught.value.place is not None
        assert caught.value.place.startswith(__file__)


def test_first_derivatives_are_as_ever() -> None:
    x = torch.rand(3)
    torch.testing.assert_close(functional.vjp(func, x)[1], 4 * x**3)


def test_on_a_cpu_pytorchs_own_refusal_passes_through() -> None:
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(NotImplementedError, match="FlexAttention does not support backward on CPU"):
        hesse.vhp(lambda x: flex_attention(x, x, x).sum(), x, x)
